"""Convolution and its transpose, over one to three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.targets.coreml.executor.modes import Arithmetic
from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction, limited
from cmexport.targets.coreml.executor.ops.windows import PAD_TYPES, pad_spatial, padding

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _setup(call: Call) -> tuple[Tensor, Tensor, int, list[int], list[int]]:
    """x, weight, spatial axes, strides and dilations."""
    x, weight = call.tensor("x"), call.tensor("weight")
    axes = x.dim() - 2
    if axes not in _CONVOLUTIONS or weight.dim() != x.dim():
        raise BadCall(f"x of rank {x.dim()} and weight of rank {weight.dim()} don't fit")
    strides, dilations = call.integers("strides", [1] * axes), call.integers("dilations", [1] * axes)
    if len(strides) != axes or len(dilations) != axes or min(*strides, *dilations) < 1:
        raise BadCall(f"strides {strides} and dilations {dilations} don't fit {axes} spatial axes")
    return x, weight, axes, strides, dilations


def _biased(call: Call, result: Tensor) -> Tensor:
    bias = call.optional("bias")
    if bias is None:
        return result
    return call.arithmetic.round(result + bias.reshape(1, -1, *[1] * (result.dim() - 2)))


def _in_runs(
    arithmetic: Arithmetic, x: Tensor, weight: Tensor, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Tensor:
    """Convolution with one cell of the kernel after the other, up to 32 channels at a time, added in half precision."""
    axes = x.dim() - 2
    convolve = _CONVOLUTIONS[axes]
    kernel = weight.shape[2:]
    sizes = [(x.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(axes)]
    channels = weight.shape[1]
    grouped = x.reshape(x.shape[0], groups, channels, *x.shape[2:])
    total: Tensor | None = None
    for cell in torch.cartesian_prod(*(torch.arange(k) for k in kernel)).reshape(-1, axes).tolist():
        window, weights = grouped, weight
        for i, (c, d, n, s) in enumerate(zip(cell, dilations, sizes, strides, strict=True)):
            window = window.narrow(3 + i, c * d, (n - 1) * s + 1).unfold(3 + i, 1, s).squeeze(-1)
            weights = weights.narrow(2 + i, c, 1)

        def part(run: slice, window: Tensor = window, weights: Tensor = weights) -> Tensor:
            return convolve(window[:, :, run].flatten(1, 2), weights[:, run], groups=groups)

        added = arithmetic.accumulate(channels, part)
        total = added if total is None else arithmetic.round(total + added)
    assert total is not None
    return total


def _conv(call: Call) -> Tensor:
    x, weight, axes, strides, dilations = _setup(call)
    groups = call.integer("groups", 1)
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise BadCall(f"{x.shape[1]} channels don't fit a weight of {list(weight.shape)} in {groups} groups")
    pads = padding(call, x.shape[2:], weight.shape[2:], strides, dilations)
    sizes = [
        (x.shape[2 + i] + sum(pads[i]) - (weight.shape[2 + i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i in range(axes)
    ]
    call.promise([x.shape[0], weight.shape[0], *sizes])
    if call.arithmetic.half:
        padded = pad_spatial(x, pads)
        return _biased(call, _in_runs(call.arithmetic, padded, weight, strides, dilations, groups))
    if all(before == after for before, after in pads):
        symmetric = [before for before, _ in pads]
    else:
        x, symmetric = pad_spatial(x, pads), [0] * axes
    return _CONVOLUTIONS[axes](x, weight, call.optional("bias"), strides, symmetric, dilations, groups)


def _stretched(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Put stride - 1 zeros between neighbours: a transposed convolution is a convolution of this."""
    shape = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    limited([*x.shape[:2], *shape])
    result = view = x.new_zeros(*x.shape[:2], *shape)
    for i, s in enumerate(strides):
        view = view.unfold(2 + i, 1, s).squeeze(-1)
    view.copy_(x)
    return result


def _transposed(call: Call, x: Tensor, weight: Tensor, strides: list[int], dilations: list[int], groups: int) -> Tensor:
    """The whole transposed convolution, nothing cropped."""
    axes = x.dim() - 2
    if not call.arithmetic.half:
        return _TRANSPOSED[axes](x, weight, None, strides, 0, 0, groups, dilations)
    grouped = weight.flip(*range(2, weight.dim())).reshape(groups, -1, *weight.shape[1:])
    flipped = grouped.transpose(1, 2).flatten(0, 1)
    reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilations, strict=True)]
    padded = pad_spatial(_stretched(x, strides), [(r, r) for r in reach])
    return _in_runs(call.arithmetic, padded, flipped, [1] * axes, dilations, groups)


def _conv_transpose(call: Call) -> Tensor:
    """The full result, cropped (or extended by zeros, which get the bias too) to the size that the padding asks for."""
    x, weight, axes, strides, dilations = _setup(call)
    groups = call.integer("groups", 1)
    if groups < 1 or x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise BadCall(f"{x.shape[1]} channels don't fit a weight of {list(weight.shape)} in {groups} groups")
    kind = call.choice("pad_type", PAD_TYPES, "valid")
    pads = call.integers("pad", [0] * 2 * axes) if kind == "custom" else [0] * 2 * axes
    if len(pads) != 2 * axes:
        raise BadCall(f"padding {pads} doesn't fit {axes} spatial axes")
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(x.shape[2:], strides, weight.shape[2:], dilations, strict=True)
    ]
    limited([x.shape[0], weight.shape[1] * groups, *full])
    shape = call.integers("output_shape", [])
    if shape and len(shape) != x.dim():
        raise BadCall(f"output_shape {shape} has not the rank of x")
    crops = []
    for i in range(axes):
        before, after = pads[2 * i], pads[2 * i + 1]
        if kind in ("same", "same_lower"):
            surplus = full[i] - (shape[2 + i] if shape else x.shape[2 + i] * strides[i])
            small, large = max(surplus, 0) // 2, surplus - max(surplus, 0) // 2
            before, after = (small, large) if kind == "same" else (large, small)
        elif shape:
            after = full[i] - before - shape[2 + i]
        crops.append((-before, -after))
    call.promise([x.shape[0], weight.shape[1] * groups, *(f + sum(c) for f, c in zip(full, crops, strict=True))])
    return _biased(call, pad_spatial(_transposed(call, x, weight, strides, dilations, groups), crops))


OPERATIONS: dict[str, OpFunction] = {"conv": _conv, "conv_transpose": _conv_transpose}
