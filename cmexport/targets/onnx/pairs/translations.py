"""A convolution between pairs in plain ONNX (opset 13 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op

from cmexport.onnxfile.translations import Translations


def _zero(lowest: int) -> Any:
    kind = onnx.TensorProto.INT8 if lowest < 0 else onnx.TensorProto.UINT8
    return op.Constant(value=onnx.helper.make_tensor("zero", kind, [], [0]))


def _ints(values: Sequence[int]) -> Any:
    return op.Constant(value_ints=values)


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
    *,
    channels_first: bool,
) -> Any:
    one: Any = op.Constant(value_float=1.0)
    read = op.DequantizeLinear(_input_codes(x, step, zero_point, channels_first=channels_first), one, zero_point)
    weight = op.DequantizeLinear(codes, weight_step, axis=0)
    pads = [int(p) for p in (*padding, *padding)]
    y = op.Conv(read, weight, bias, strides=[int(s) for s in stride], pads=pads)
    made = op.QuantizeLinear(y, one, _zero(lowest))
    return made if output_step is None else op.DequantizeLinear(made, output_step, output_zero_point, axis=1)


def _input_codes(x: Any, step: Any, zero_point: Any, *, channels_first: bool) -> Any:
    if step is None:
        return x
    shape = [int(d) for d in x.shape]
    zeros: Any = op.Expand(zero_point, _ints([shape[1]]))
    if not channels_first:
        return op.QuantizeLinear(x, step, zeros, axis=1)
    rows = op.Reshape(x, _ints([*shape[:2], -1]))
    return op.Reshape(op.QuantizeLinear(rows, step, zeros, axis=1), _ints(shape))


def paired_translations(*, channels_first: bool = False) -> Translations:
    """Translation of the operator of `operators` to ONNX.

    Args:
        channels_first: round inputs as (N, C, H W). ONNX Runtime's integer convolutions are channels-last, and it moves
            their transpositions to the other side of whatever works on single elements, which leaves rounding with a
            step for each element of the last axis: 45 ms for 64 channels at 128x128 in place of 0.5. It moves none past
            a change of rank. Other runtimes want nothing between Q and DQ.
    """
    translation = partial(_paired_convolution, channels_first=channels_first)
    return {torch.ops.cmexport.paired_convolution.default: translation}
