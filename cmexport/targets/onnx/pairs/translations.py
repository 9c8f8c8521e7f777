"""A convolution between pairs in plain ONNX (opset 13 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op

from cmexport.onnxfile.translations import Translations


def _zero(lowest: int) -> Any:
    kind = onnx.TensorProto.INT8 if lowest < 0 else onnx.TensorProto.UINT8
    return op.Constant(value=onnx.helper.make_tensor("zero", kind, [], [0]))


def _paired_convolution(
    x: Any,
    step: Any,
    zero_point: Any,
    codes: Any,
    weight_step: Any,
    bias: Any,
    output_step: Any,
    output_zero_point: Any,
    lowest: int,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Any:
    channels = int(x.shape[1])
    one: Any = op.Constant(value_float=1.0)
    shape: Any = op.Constant(value_ints=[channels])
    zeros: Any = op.Expand(zero_point, shape)
    read = op.DequantizeLinear(op.QuantizeLinear(x, step, zeros, axis=1), one, zero_point)
    weight = op.DequantizeLinear(codes, weight_step, axis=0)
    pads = [int(p) for p in (*padding, *padding)]
    y = op.Conv(read, weight, bias, strides=[int(s) for s in stride], pads=pads)
    return op.DequantizeLinear(op.QuantizeLinear(y, one, _zero(lowest)), output_step, output_zero_point, axis=1)


def paired_translations() -> Translations:
    """Translation of the operator of `operators` to ONNX."""
    return {torch.ops.cmexport.paired_convolution.default: _paired_convolution}
