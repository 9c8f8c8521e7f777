"""A convolution between pairs as one torch operator: a graph that holds it still runs, traces and can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.quantize.codes import LAST


@torch.library.custom_op("cmexport::paired_convolution", mutates_args=())
def paired_convolution(
    x: Tensor,
    step: Tensor | None,
    zero_point: Tensor,
    codes: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    output_step: Tensor | None,
    output_zero_point: Tensor | None,
    lowest: int,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """Convolve codes and round the result to codes.

    Args:
        x: (N, C, H, W), or its codes where `step` is None.
        step: (C,) float32.
        zero_point: () the same for all channels, uint8 or int8.
        codes: (O, C, kh, kw) int8.
        weight_step: (O,) float32, in output steps.
        bias: (O,) float32, in output steps and counted from the lowest code.
        output_step: (O,) float32; None: the result is codes of `zero_point`'s type.
        output_zero_point: (O,) of `zero_point`'s type; None as `output_step`.
        lowest: code, 0 or -128.
        stride: of the convolution.
        padding: of the convolution.

    Returns:
        (N, O, H', W').
    """
    zero = zero_point.float()
    if step is None:
        read = x.float() - zero
    else:
        read = ((x / step.reshape(1, -1, 1, 1)).round() + zero).clamp(lowest, lowest + LAST) - zero
    weight = codes.float() * weight_step.reshape(-1, 1, 1, 1)
    y = F.conv2d(read, weight, bias, list(stride), list(padding)).round().clamp(lowest, lowest + LAST)
    if output_step is None or output_zero_point is None:
        return y.to(zero_point.dtype)
    rows = (1, -1, 1, 1)
    return (y - output_zero_point.float().reshape(rows)) * output_step.reshape(rows)


@paired_convolution.register_fake
def _shape(
    x: Tensor,
    step: Tensor | None,
    zero_point: Tensor,
    codes: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    output_step: Tensor | None,
    output_zero_point: Tensor | None,
    lowest: int,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    del step, weight_step, bias, output_zero_point, lowest
    shape = F.conv2d(x.float(), codes.float(), None, list(stride), list(padding))
    return shape.to(zero_point.dtype) if output_step is None else shape
