"""The 8-bit layers as torch operators, so that a graph holding them still runs, traces and can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = -128, 127


def _read(x: Tensor, factor: Tensor, shift: Tensor, scale: float) -> Tensor:
    """What QuantizeLinear and DequantizeLinear leave of the centred input."""
    return ((x * factor + shift) / scale).round().clamp(LOWEST, HIGHEST) * scale


@torch.library.custom_op("cmexport::centred_convolution", mutates_args=())
def centred_convolution(
    x: Tensor,
    factor: Tensor,
    shift: Tensor,
    scale: float,
    codes: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """A convolution between Q/DQ pairs, on an input that is padded and centred first.

    Args:
        x: (N, C, H, W).
        factor: (1, C, 1, 1) float32; `x * factor + shift` is in units of codes times `scale`.
        shift: (1, C, 1, 1) float32.
        scale: of the pair; a power of two.
        codes: (O, C, kh, kw) int8.
        weight_step: (O,) float32.
        bias: (O,) float32, zero points multiplied out.
        stride: of the convolution.
        padding: of the convolution, with zeros of `x`.

    Returns:
        (N, O, H', W').
    """
    height, width = padding
    read = _read(F.pad(x, (width, width, height, height)), factor, shift, scale)
    return F.conv2d(read, codes.float() * weight_step.reshape(-1, 1, 1, 1), bias, list(stride))


@centred_convolution.register_fake
def _convolution_shape(
    x: Tensor,
    factor: Tensor,
    shift: Tensor,
    scale: float,
    codes: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    del factor, shift, scale, weight_step
    return F.conv2d(x, codes.to(x.dtype), bias, list(stride), list(padding))


@torch.library.custom_op("cmexport::centred_linear", mutates_args=())
def centred_linear(
    x: Tensor, factor: Tensor, shift: Tensor, scale: float, codes: Tensor, weight_step: Tensor, bias: Tensor
) -> Tensor:
    """A linear layer between Q/DQ pairs, on an input that is centred first.

    Args:
        x: (..., C).
        factor: (C,) float32; `x * factor + shift` is in units of codes times `scale`.
        shift: (C,) float32.
        scale: of the pair; a power of two.
        codes: (C, O) int8.
        weight_step: (O,) float32.
        bias: (O,) float32, zero points multiplied out.

    Returns:
        (..., O).
    """
    return _read(x, factor, shift, scale) @ (codes.float() * weight_step) + bias


@centred_linear.register_fake
def _linear_shape(
    x: Tensor, factor: Tensor, shift: Tensor, scale: float, codes: Tensor, weight_step: Tensor, bias: Tensor
) -> Tensor:
    del factor, shift, scale, weight_step, bias
    return x.new_empty(*x.shape[:-1], codes.shape[1])
