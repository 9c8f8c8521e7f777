"""The 8-bit layers as torch operators, so that a graph holding them still runs, traces and can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.quantize.codes import LAST


def _product(codes: Tensor, matrix: Tensor, weight_step: Tensor, bias: Tensor) -> Tensor:
    """Integer arithmetic: sums stay below 2^53."""
    return (codes.double() @ matrix.double()).float() * weight_step + bias


def _codes(x: Tensor) -> Tensor:
    return x.round().clamp(0, LAST)


@torch.library.custom_op("cmexport::integer_convolution", mutates_args=())
def integer_convolution(
    x: Tensor,
    step: Tensor | None,
    zero_point: Tensor,
    index: Tensor,
    matrix: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    size: Sequence[int],
) -> Tensor:
    """A convolution of codes as one matrix product.

    Args:
        x: (N, C, H, W), or its codes, uint8, where `step` is None.
        step: (C,) float32.
        zero_point: (C,) uint8; also what lies outside the picture.
        index: (P k,) int32: for each of P output positions the k input positions it meets, H W for outside.
        matrix: (k C, O) int8, rows by kernel position, then channel.
        weight_step: (O,) float32.
        bias: (O,) float32, zero points multiplied out.
        size: height and width of the result.

    Returns:
        (N, O, *size).
    """
    n, c = x.shape[:2]
    zero = zero_point.float()
    column = (1, -1, 1, 1)
    codes = x.float() if step is None else _codes((x / step.reshape(column)).round() + zero.reshape(column))
    rows = torch.cat([codes.flatten(2).transpose(1, 2), zero.expand(n, 1, c)], dim=1)
    y = _product(rows[:, index].reshape(n, size[0] * size[1], -1), matrix, weight_step, bias)
    return y.transpose(1, 2).reshape(n, matrix.shape[1], *size).contiguous()


@integer_convolution.register_fake
def _convolution_shape(
    x: Tensor,
    step: Tensor | None,
    zero_point: Tensor,
    index: Tensor,
    matrix: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    size: Sequence[int],
) -> Tensor:
    del step, zero_point, index, weight_step
    return x.new_empty(x.shape[0], matrix.shape[1], *size, dtype=bias.dtype)


@torch.library.custom_op("cmexport::integer_linear", mutates_args=())
def integer_linear(x: Tensor, matrix: Tensor, weight_step: Tensor, bias: Tensor) -> Tensor:
    """A linear layer on values that only need rounding to be codes.

    Args:
        x: (N, T, C), in steps and counted from the lowest code.
        matrix: (C, O) int8.
        weight_step: (O,) float32.
        bias: (O,) float32, zero points multiplied out.

    Returns:
        (N, T, O).
    """
    return _product(_codes(x), matrix, weight_step, bias)


@integer_linear.register_fake
def _linear_shape(x: Tensor, matrix: Tensor, weight_step: Tensor, bias: Tensor) -> Tensor:
    del weight_step, bias
    return x.new_empty(*x.shape[:-1], matrix.shape[1])


@torch.library.custom_op("cmexport::integer_attention", mutates_args=())
def integer_attention(
    x: Tensor,
    step: Tensor | None,
    zero_point: Tensor | None,
    matrix: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    heads: int,
) -> Tensor:
    """Self-attention whose packed projection is a product of codes; scores are divided by sqrt(head width) inside.

    Args:
        x: (N, T, C) tokens.
        step: (C,) float32; None: tokens are in steps and counted from the lowest code.
        zero_point: (C,) uint8; None as `step`.
        matrix: (C, 3 C) int8, columns q, k, v with heads contiguous inside each.
        weight_step: (3 C,) float32.
        bias: (3 C,) float32, zero points multiplied out.
        heads: number of heads.

    Returns:
        (N, T, C), before the output projection.
    """
    n, tokens, channels = x.shape
    counted = x if step is None or zero_point is None else (x / step).round() + zero_point.float()
    qkv = _product(_codes(counted), matrix, weight_step, bias)
    q, k, v = qkv.reshape(n, tokens, 3 * heads, channels // heads).transpose(1, 2).chunk(3, dim=1)
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(n, tokens, channels).contiguous()


@integer_attention.register_fake
def _attention_shape(
    x: Tensor,
    step: Tensor | None,
    zero_point: Tensor | None,
    matrix: Tensor,
    weight_step: Tensor,
    bias: Tensor,
    heads: int,
) -> Tensor:
    del step, zero_point, weight_step, bias, heads
    return x.new_empty(*x.shape[:-1], matrix.shape[1] // 3)
