"""Convolution and its transpose, over one to three spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.targets.coreml.executor.modes import RUN, Arithmetic
from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction, limited
from cmexport.targets.coreml.executor.ops.windows import PAD_TYPES, pad_spatial, padding

# Numbers that one batched product gives, 4 MiB in float32: more leave the cores' own cache.
_LARGEST_PRODUCT = 2**20

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
    """The result, in whichever type it is, and a bias in the same."""
    bias = call.optional("bias") if result.dtype != torch.float16 else call.stored("bias") if call.has("bias") else None
    if bias is None:
        return result
    return call.arithmetic.narrow(result + bias.reshape(1, -1, *[1] * (result.dim() - 2)))


@dataclass(frozen=True, eq=False)
class _Rows:
    """A weight cut into what is multiplied at once: (cells, groups, runs, channels out, channels of a run).

    A last run that is shorter is filled with zeros, which add nothing.
    """

    rows: Tensor
    kernel: tuple[int, ...]

    @classmethod
    def of(cls, weight: Tensor, groups: int) -> _Rows:
        """The rows of a weight (channels out, channels of a group, *kernel)."""
        kernel, channels = tuple(weight.shape[2:]), weight.shape[1]
        width = min(RUN, max(channels, 1))
        cells = weight.reshape(groups, -1, channels, math.prod(kernel)).permute(3, 0, 1, 2)
        filled = F.pad(cells, (0, -channels % width))
        return cls(filled.reshape(*filled.shape[:3], -1, width).transpose(2, 3).contiguous(), kernel)


def _in_runs(
    arithmetic: Arithmetic, x: Tensor, weight: _Rows, strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Tensor:
    """Convolution with one cell of the kernel after the other, up to 32 channels at a time, added in half precision.

    The products of all runs of some cells are one batched matrix product. It sums the 32 products of a run in the same
    order as a convolution with a kernel of one cell does; only the additions that are rounded are a loop.

    Returns:
        float16.
    """
    axes, kernel = x.dim() - 2, weight.kernel
    sizes = [(x.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(axes)]
    count, _, runs, channels, width = weight.rows.shape
    filled = -(x.shape[1] // groups) % width
    grouped = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    if filled:
        grouped = F.pad(grouped, (*[0] * 2 * axes, 0, filled))
    # Channels first, pictures beside each other: (groups, channels, pictures, *axes).
    grouped = grouped.movedim(0, 2)
    cells = list(product(*map(range, kernel)))
    at_once = max(1, _LARGEST_PRODUCT // max(1, groups * runs * channels * x.shape[0] * math.prod(sizes)))
    total: Tensor | None = None
    for first in range(0, count, at_once):
        windows = []
        for cell in cells[first : first + at_once]:
            window = grouped
            for i, (c, d, n, s) in enumerate(zip(cell, dilations, sizes, strides, strict=True)):
                window = window.narrow(3 + i, c * d, (n - 1) * s + 1).unfold(3 + i, 1, s).squeeze(-1)
            windows.append(window)
        columns = torch.stack(windows).reshape(len(windows) * groups * runs, width, -1)
        rows = weight.rows[first : first + at_once].reshape(len(columns), channels, width)
        parts = arithmetic.narrow(torch.bmm(rows, columns)).reshape(len(windows), groups, runs, channels, -1)
        added = arithmetic.add_up(parts.unbind(2)).unbind(0)
        total = arithmetic.add_up(added if total is None else (total, *added))
    assert total is not None
    return total.reshape(groups * channels, x.shape[0], *sizes).movedim(1, 0)


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
        rows = call.prepared(("rows", groups), ("weight", "groups"), lambda: _Rows.of(weight, groups))
        return _biased(call, _in_runs(call.arithmetic, padded, rows, strides, dilations, groups))
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
    return _in_runs(call.arithmetic, padded, _Rows.of(flipped, groups), [1] * axes, dilations, groups)


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
