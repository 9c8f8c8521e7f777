"""The same numbers in another shape or order, or some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction, axis
from cmexport.targets.coreml.executor.ops.windows import pad_spatial


def _reshape(call: Call) -> Tensor:
    """0 keeps an extent: the one at the same place, since iOS 17 counted from the end. -1 is what is left."""
    x, shape = call.stored("x"), call.integers("shape")
    if 0 in shape and x.numel():
        if call.opset >= 7:
            aligned = [1] * max(0, len(shape) - x.dim()) + list(x.shape[max(0, x.dim() - len(shape)) :])
        elif len(shape) == x.dim():
            aligned = list(x.shape)
        else:
            raise BadCall(f"shape {shape} keeps extents of a tensor of rank {x.dim()}")
        shape = [kept if wanted == 0 else wanted for wanted, kept in zip(shape, aligned, strict=True)]
    return x.reshape(shape)


def _reshape_like(call: Call) -> Tensor:
    begins, ends, masks = ([int(v) for v in call.tensors(p)] for p in ("begins", "ends", "end_masks"))
    shape: list[int] = []
    for ref, begin, end, mask in zip(call.tensors("ref_tensors"), begins, ends, masks, strict=True):
        shape += ref.shape[begin : None if mask else end]
    return call.stored("x").reshape(shape)


def _transpose(call: Call) -> Tensor:
    x = call.stored("x")
    return x.permute(call.axes("perm", x.dim()))


def _expand_dims(call: Call) -> Tensor:
    x, axes = call.stored("x"), call.integers("axes")
    for where in sorted(axis(a, x.dim() + len(axes)) for a in axes):
        x = x.unsqueeze(where)
    return x


def _squeeze(call: Call) -> Tensor:
    """Extents other than 1 are left alone."""
    x = call.stored("x")
    return x.squeeze(tuple(call.axes("axes", x.dim(), range(x.dim()))))


def _flatten2d(call: Call) -> Tensor:
    x = call.stored("x")
    cut = call.integer("axis", 1)
    cut = cut + x.dim() if cut < 0 else cut
    return x.reshape(math.prod(x.shape[:cut]), math.prod(x.shape[cut:]))


def _reverse(call: Call) -> Tensor:
    x = call.stored("x")
    return x.flip(call.axes("axes", x.dim(), range(x.dim())))


def _reverse_sequence(call: Call) -> Tensor:
    """The first lengths[i] elements along `seq_axis` of the i-th slice are reversed."""
    x, lengths = call.stored("x"), call.stored("lengths").long()
    along, batch = call.axis("seq_axis", x.dim(), 0), call.axis("batch_axis", x.dim(), 0)
    rows = x.movedim((batch, along), (0, 1)) if batch != along else None
    if rows is None or lengths.shape != (rows.shape[0],):
        raise BadCall("lengths don't fit the batch axis")
    position = torch.arange(rows.shape[1])
    source = torch.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    taken = torch.stack([row[where] for row, where in zip(rows, source, strict=True)])
    return taken.movedim((0, 1), (batch, along))


def _slices(call: Call, shape: Sequence[int]) -> list[Tensor]:
    """The positions that begin, end, stride and the masks choose along each axis; squeezed axes have one."""
    rank = len(shape)
    begin, end = call.integers("begin"), call.integers("end", [0] * rank)
    stride = call.integers("stride", [1] * rank)
    masks = [call.flags(name, rank) for name in ("begin_mask", "end_mask", "squeeze_mask")]
    if any(len(v) != rank for v in [begin, end, stride]) or any(len(m) != rank for m in masks) or 0 in stride:
        raise BadCall(f"begin, end and stride don't fit a tensor of rank {rank}")
    chosen = []
    for i, size in enumerate(shape):
        first = None if masks[0][i] else begin[i]
        last = None if masks[1][i] else end[i]
        if masks[2][i]:
            where = begin[i] + size if begin[i] < 0 else begin[i]
            where = 0 if masks[0][i] else where
            if not 0 <= where < size:
                raise BadCall(f"index {begin[i]} is outside 0 … {size - 1}")
            chosen.append(torch.tensor([where]))
        else:
            chosen.append(torch.arange(size)[:0] if size == 0 else _range(size, first, last, stride[i]))
    return chosen


def _range(size: int, first: int | None, last: int | None, stride: int) -> Tensor:
    picked = range(size)[slice(first, last, stride)]
    return torch.arange(picked.start, picked.stop, picked.step) if len(picked) else torch.arange(0)


def _slice_by_index(call: Call) -> Tensor:
    x = call.stored("x")
    for i, positions in enumerate(_slices(call, x.shape)):
        count = positions.numel()
        if count and count == int(positions[-1]) - int(positions[0]) + 1:
            x = x.narrow(i, int(positions[0]), count)
        else:
            x = x.index_select(i, positions)
    squeezed = call.flags("squeeze_mask", x.dim())
    return x.squeeze(tuple(i for i, s in enumerate(squeezed) if s))


def _slice_update(call: Call) -> Tensor:
    x = call.stored("x").clone()
    positions = _slices(call, x.shape)
    grid = torch.meshgrid(*positions, indexing="ij")
    x[grid] = call.stored("update").reshape(grid[0].shape)
    return x


def _slice_by_size(call: Call) -> Tensor:
    x, begin, size = call.stored("x"), call.integers("begin"), call.integers("size")
    if len(begin) != x.dim() or len(size) != x.dim():
        raise BadCall(f"begin and size don't fit a tensor of rank {x.dim()}")
    for i, (first, count) in enumerate(zip(begin, size, strict=True)):
        first = first + x.shape[i] if first < 0 else first
        count = x.shape[i] - first if count == -1 else count
        if first < 0 or count < 0 or first + count > x.shape[i]:
            raise BadCall(f"axis {i} has {x.shape[i]} elements, not {first} + {count}")
        x = x.narrow(i, first, count)
    return x


def _blocks(call: Call, name: str) -> tuple[Tensor, int]:
    x, size = call.stored("x"), call.integer(name)
    if x.dim() != 4 or size < 1:
        raise BadCall(f"x has rank {x.dim()} and blocks have {size} cells a side")
    return x, size


def _depth_to_space(call: Call) -> Tensor:
    """Channels are (block row, block column, C): the position in the block varies slowest, unlike pixel_shuffle's."""
    x, size = _blocks(call, "block_size")
    n, c, h, w = x.shape
    blocks = x.reshape(n, size, size, c // size**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(call: Call) -> Tensor:
    """The inverse of depth_to_space."""
    x, size = _blocks(call, "block_size")
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // size, size, w // size, size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * size**2, h // size, w // size)


def _pixel_shuffle(call: Call) -> Tensor:
    x, factor = _blocks(call, "upscale_factor")
    return F.pixel_shuffle(x, factor)


def _pixel_unshuffle(call: Call) -> Tensor:
    x, factor = _blocks(call, "downscale_factor")
    return F.pixel_unshuffle(x, factor)


def _space_to_batch(call: Call) -> Tensor:
    """Padded, then cut into blocks; the position in a block becomes the slowest part of the batch."""
    x, (high, wide) = call.stored("x"), call.integers("block_shape")
    top, bottom, left, right = call.integers("paddings")
    x = pad_spatial(x, [(top, bottom), (left, right)])
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // high, high, w // wide, wide)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(n * high * wide, c, h // high, w // wide)


def _batch_to_space(call: Call) -> Tensor:
    """The inverse of space_to_batch."""
    x, (high, wide) = call.stored("x"), call.integers("block_shape")
    top, bottom, left, right = call.integers("crops")
    n, c, h, w = x.shape
    blocks = x.reshape(high, wide, n // (high * wide), c, h, w)
    joined = blocks.permute(2, 3, 4, 0, 5, 1).reshape(n // (high * wide), c, h * high, w * wide)
    return joined[..., top : h * high - bottom, left : w * wide - right]


def _sliding_windows(call: Call) -> Tensor:
    """The windows' elements become the axis after the windowed one."""
    x = call.stored("x")
    along, size, stride = call.axis("axis", x.dim()), call.integer("size"), call.integer("stride", 1)
    if not 1 <= size <= x.shape[along] or stride < 1:
        raise BadCall(f"windows of {size} by {stride} don't fit {x.shape[along]} elements")
    windows = x.unfold(along, size, stride).movedim(-1, along + 1)
    call.promise(windows.shape)
    return windows


OPERATIONS: dict[str, OpFunction] = {
    "batch_to_space": _batch_to_space,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "flatten2d": _flatten2d,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "reverse_sequence": _reverse_sequence,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
    "space_to_batch": _space_to_batch,
    "space_to_depth": _space_to_depth,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
