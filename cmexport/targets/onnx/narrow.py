"""Convolutions to a picture's few channels as one matrix product whose results are added up in place.

ONNX Runtime's convolution computes 16 output channels at least, of which a picture wants three. The other way round,
each position gives its part of every output that it reaches (27 numbers for 3x3 and three channels), and Col2Im adds
them: exactly the same sum. From 64 channels at 128x128 it takes 1.5 ms in place of 4.5 ms (one thread), at 32x32 0.07
in place of 0.23. Pointwise convolutions stay what they are: with 32 outputs (of 64 channels, 128x128, with a 3x3
convolution before and a sum behind) the product takes 14.0 ms in place of 12.4, with 8 (of 128) 52.6 in place of 48.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxscript import opset20 as op

from cmexport.onnxfile.translations import Translations, aten

LEAST_POSITIONS = 64 * 64
"""Of a picture; below, less than 0.3 ms can be saved."""
BLOCK = 16
"""Output channels that ONNX Runtime's convolution computes together; a layer with as many wastes nothing."""


def _ints(values: Sequence[int]) -> Any:
    return op.Constant(value_ints=values)


def _convolution(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    stride, padding, dilation = ([int(d) for d in numbers] for numbers in (stride, padding, dilation))
    size, shape = [int(d) for d in input.shape], [int(d) for d in weight.shape]
    same = [2 * p + 1 for p in padding] == shape[2:]
    plain = stride == dilation == [1, 1] and groups == 1
    taps = math.prod(shape[2:])
    few = taps > 1 and shape[0] < BLOCK and shape[0] * taps < shape[1] and math.prod(size[2:]) >= LEAST_POSITIONS
    if not (same and plain and few):
        pads = [*padding, *padding]
        return op.Conv(input, weight, bias, strides=stride, pads=pads, dilations=dilation, group=groups)
    return _added_up(input, weight, bias, size, shape, padding)


def _added_up(
    input: Any, weight: Any, bias: Any, size: Sequence[int], shape: Sequence[int], padding: Sequence[int]
) -> Any:
    taps = math.prod(shape[2:])
    # What a position gives to the one before it in the picture comes from the kernel's element behind the middle.
    turned = op.Gather(op.Reshape(weight, _ints([*shape[:2], taps])), _ints(range(taps)[::-1]), axis=2)
    matrix = op.Reshape(op.Transpose(turned, perm=[0, 2, 1]), _ints([-1, shape[1]]))
    parts = op.MatMul(matrix, op.Reshape(input, _ints([*size[:2], -1])))
    total = op.Col2Im(parts, _ints(size[2:]), _ints(shape[2:]), pads=[*padding, *padding])
    return total if bias is None else op.Add(total, op.Reshape(bias, _ints([1, -1, 1, 1])))


def narrow_translations() -> Translations:
    """Translation of convolutions to ONNX, by which few output channels become a matrix product."""
    return {aten.conv2d.default: _convolution}
