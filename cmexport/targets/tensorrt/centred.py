"""Centred layers in plain ONNX (opset 13 and later): what TensorRT fuses into 8-bit kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnxscript import opset21 as op

from cmexport.onnxfile.translations import Translations


def _pair(x: Any, factor: Any, shift: Any, scale: float) -> Any:
    step: Any = op.Constant(value_float=scale)
    zero: Any = op.Constant(value=onnx.helper.make_tensor("zero", onnx.TensorProto.INT8, [], [0]))
    return op.DequantizeLinear(op.QuantizeLinear(op.Add(op.Mul(x, factor), shift), step, zero), step, zero)


def _centred_convolution(
    x: Any,
    factor: Any,
    shift: Any,
    scale: float,
    codes: Any,
    weight_step: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Any:
    height, width = (int(p) for p in padding)
    if height or width:
        pads: Any = op.Constant(value_ints=[0, 0, height, width] * 2)
        x = op.Pad(x, pads)
    weight = op.DequantizeLinear(codes, weight_step, axis=0)
    return op.Conv(_pair(x, factor, shift, scale), weight, bias, strides=[int(s) for s in stride])


def _centred_linear(x: Any, factor: Any, shift: Any, scale: float, codes: Any, weight_step: Any, bias: Any) -> Any:
    """A product of two matrices, whatever rank the input has.

    ONNX Runtime makes a Gemm of MatMul and Add, puts the reshape that this takes behind the pair, and pushes the pair
    through it with a zero point of the wrong type: "output_dtype INT8 does not match y_zero_point type UINT8", in 1.31.
    With the reshape before the pair there is nothing to push.
    """
    shape = [int(d) for d in x.shape]
    flat = len(shape) == 2
    rows: Any = op.Constant(value_ints=[math.prod(shape[:-1]), shape[-1]])
    matrix = x if flat else op.Reshape(x, rows)
    weight = op.DequantizeLinear(codes, weight_step, axis=1)
    product = op.Add(op.MatMul(_pair(matrix, factor, shift, scale), weight), bias)
    whole: Any = op.Constant(value_ints=[*shape[:-1], int(codes.shape[1])])
    return product if flat else op.Reshape(product, whole)


def centred_translations() -> Translations:
    """Translations of the two operators of `operators` to ONNX."""
    return {
        torch.ops.cmexport.centred_convolution.default: _centred_convolution,
        torch.ops.cmexport.centred_linear.default: _centred_linear,
    }
