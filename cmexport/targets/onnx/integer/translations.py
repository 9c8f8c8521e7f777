"""The 8-bit layers in ONNX Runtime's operators.

Source: onnxruntime docs/ContribOperators.md (MatMulIntegerToFloat, QAttention; domain com.microsoft, version 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx.defs import OpSchema
from onnxscript import opset20 as op

from cmexport.onnxfile.translations import Translations
from cmexport.targets.onnx.contrib import contrib_operator

MATMUL = contrib_operator(
    "MatMulIntegerToFloat",
    {"A": "TA", "B": "TB", "a_scale": "T", "b_scale": "T", "a_zero": "TA", "b_zero": "TB", "bias": "T"},
    {"T": ("float",), "TA": ("uint8", "int8"), "TB": ("uint8", "int8")},
    {},
    optional=("a_zero", "b_zero", "bias"),
)
ATTENTION = contrib_operator(
    "QAttention",
    {
        **{"input": "TA", "weight": "TB", "bias": "T", "input_scale": "T", "weight_scale": "T"},
        **{"mask_index": "TM", "input_zero_point": "TA", "weight_zero_point": "TB"},
    },
    {"T": ("float",), "TA": ("uint8", "int8"), "TB": ("uint8", "int8"), "TM": ("int32",)},
    {"num_heads": OpSchema.AttrType.INT},
    optional=("mask_index", "input_zero_point", "weight_zero_point"),
)


_ZERO = onnx.helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [0])


def _ints(values: Sequence[int]) -> Any:
    return op.Constant(value_ints=values)


def _quantized(x: Any, step: Any, zero_point: Any) -> Any:
    """Codes of (N, C, ...): with channels on the last axis the kernel is 50 times slower."""
    return op.QuantizeLinear(x, step, zero_point, axis=1)


def _integer_convolution(
    x: Any, step: Any, zero_point: Any, index: Any, matrix: Any, weight_step: Any, bias: Any, size: Sequence[int]
) -> Any:
    n, c = (int(d) for d in x.shape[:2])
    height, width = (int(d) for d in size)
    # Before rounding: ONNX Runtime moves no transposition past a change of rank, and behind one channels are last.
    rows = op.Reshape(x, _ints([n, c, -1]))
    rows = op.Transpose(rows if step is None else _quantized(rows, step, zero_point), perm=[0, 2, 1])
    border = op.Expand(zero_point, _ints([n, 1, c]))
    patches = op.Gather(op.Concat(rows, border, axis=1), index, axis=1)
    patches = op.Reshape(patches, _ints([n, height * width, -1]))
    y = MATMUL(patches, matrix, op.Constant(value_float=1.0), weight_step, None, None, bias)
    return op.Reshape(op.Transpose(y, perm=[0, 2, 1]), _ints([n, -1, height, width]))


def _whole(x: Any) -> Any:
    """Codes of what is in steps and counted from the lowest code."""
    zero: Any = op.Constant(value=_ZERO)
    return op.QuantizeLinear(x, op.Constant(value_float=1.0), zero)


def _integer_linear(x: Any, matrix: Any, weight_step: Any, bias: Any) -> Any:
    return MATMUL(_whole(x), matrix, op.Constant(value_float=1.0), weight_step, None, None, bias)


def _integer_attention(x: Any, step: Any, zero_point: Any, matrix: Any, weight_step: Any, bias: Any, heads: int) -> Any:
    if step is None:
        codes = _whole(x)
    else:
        channels_first = op.Transpose(x, perm=[0, 2, 1])
        codes = op.Transpose(_quantized(channels_first, step, zero_point), perm=[0, 2, 1])
    return ATTENTION(codes, matrix, bias, op.Constant(value_float=1.0), weight_step, None, None, None, num_heads=heads)


def integer_translations() -> Translations:
    """Translations of the three operators of `operators` to ONNX."""
    return {
        torch.ops.cmexport.integer_convolution.default: _integer_convolution,
        torch.ops.cmexport.integer_linear.default: _integer_linear,
        torch.ops.cmexport.integer_attention.default: _integer_attention,
    }
