"""Operations on whole tensors: padding, joining, splitting, sorting, filling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.targets.coreml.executor.modes import Arithmetic
from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction


def _band_part(call: Call) -> Tensor:
    x, lower, upper = call.stored("x"), call.integer("lower", -1), call.integer("upper", -1)
    below = torch.arange(x.shape[-2]).unsqueeze(1) - torch.arange(x.shape[-1])
    kept = torch.ones_like(below, dtype=torch.bool)
    if lower >= 0:
        kept &= below <= lower
    if upper >= 0:
        kept &= -below <= upper
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


def _concat(call: Call) -> Tensor:
    values = call.tensors("values")
    axis = call.axis("axis", values[0].dim())
    if values[0].dim() == 0:
        return torch.stack(values)
    if call.flag("interleave"):
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


def _cumsum(call: Call) -> Tensor:
    x = call.tensor("x")
    axis, exclusive, reverse = call.axis("axis", x.dim(), 0), call.flag("exclusive"), call.flag("reverse")
    x = x.flip(axis) if reverse else x
    total = _running_sum(call.arithmetic, x, axis)
    if exclusive:
        total = torch.cat([torch.zeros_like(total.narrow(axis, 0, 1)), total.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return total.flip(axis) if reverse else total


def _running_sum(arithmetic: Arithmetic, x: Tensor, axis: int) -> Tensor:
    if not arithmetic.half:
        return x.cumsum(axis)
    totals = [x.select(axis, 0)]
    for i in range(1, x.shape[axis]):
        totals.append(arithmetic.round(totals[-1] + x.select(axis, i)))
    return torch.stack(totals, axis)


def _fill(call: Call) -> Tensor:
    shape = call.integers("shape")
    call.promise(shape)
    return torch.full(shape, call.real("value", 0.0))


def _fill_like(call: Call) -> Tensor:
    return torch.full(call.stored("ref_tensor").shape, call.real("value", 0.0))


def _one_hot(call: Call) -> Tensor:
    indices, size = call.stored("indices").long(), call.integer("one_hot_vector_size")
    axis = call.integer("axis", -1)
    axis = axis + indices.dim() + 1 if axis < 0 else axis
    call.promise([*indices.shape[:axis], size, *indices.shape[axis:]])
    slots = torch.arange(size).reshape([-1 if i == axis else 1 for i in range(indices.dim() + 1)])
    hot = indices.unsqueeze(axis) == slots
    return torch.where(hot, call.real("on_value", 1.0), call.real("off_value", 0.0))


def _pad(call: Call) -> Tensor:
    """Amounts are for the last axes, in order, before and after each."""
    x, pad = call.stored("x"), call.integers("pad")
    if len(pad) % 2 or len(pad) > 2 * x.dim() or min(pad, default=0) < 0:
        raise BadCall(f"padding {pad} doesn't fit a tensor of rank {x.dim()}")
    pairs = [(0, 0)] * (x.dim() - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))
    call.promise([n + before + after for n, (before, after) in zip(x.shape, pairs, strict=True)])
    mode = call.choice("mode", ("constant", "reflect", "replicate"), "constant")
    if mode == "constant":
        return F.pad(x, [cells for pair in reversed(pairs) for cells in pair], value=call.real("constant_val", 0.0))
    for axis, pair in enumerate(pairs):
        if any(pair):
            x = x.index_select(axis, _mirrored(x.shape[axis], *pair, mirror=mode == "reflect"))
    return x


def _mirrored(size: int, before: int, after: int, mirror: bool) -> Tensor:
    """Where each cell of a padded axis comes from."""
    if mirror and max(before, after) > size - 1:
        raise BadCall(f"an axis of {size} can't be reflected by {max(before, after)}")
    position = torch.arange(-before, size + after)
    if not mirror:
        return position.clamp(0, size - 1)
    return size - 1 - (size - 1 - position.abs()).abs()


def _range_1d(call: Call) -> Tensor:
    start, end, step = call.real("start"), call.real("end"), call.real("step")
    if not step or not math.isfinite(start + end + step):
        raise BadCall(f"there is no range from {start} to {end} by {step}")
    count = max(0, math.ceil((end - start) / step))
    call.promise([count])
    return start + torch.arange(count, dtype=torch.float64) * step


def _shape(call: Call) -> Tensor:
    return torch.tensor(call.stored("x").shape, dtype=torch.int32)


def _split(call: Call) -> tuple[Tensor, ...]:
    x = call.stored("x")
    axis = call.axis("axis", x.dim())
    sizes = call.integers("split_sizes", [])
    if not sizes:
        parts = call.integer("num_splits")
        if parts < 1 or x.shape[axis] % parts:
            raise BadCall(f"{x.shape[axis]} can't be split into {parts} equal parts")
        sizes = [x.shape[axis] // parts] * parts
    if sum(sizes) != x.shape[axis] or min(sizes) < 0:
        raise BadCall(f"{x.shape[axis]} can't be split into {sizes}")
    return tuple(torch.split_with_sizes(x, sizes, axis))


def _stack(call: Call) -> Tensor:
    values = call.tensors("values")
    return torch.stack(values, call.axis("axis", values[0].dim() + 1))


def _sorted(x: Tensor, axis: int, ascending: bool) -> tuple[Tensor, Tensor]:
    result = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    return result.values, result.indices


def _argsort(call: Call) -> Tensor:
    x = call.stored("x")
    return _sorted(x, call.axis("axis", x.dim(), -1), call.flag("ascending"))[1]


def _topk(call: Call) -> tuple[Tensor, ...]:
    x = call.stored("x")
    axis, k = call.axis("axis", x.dim(), -1), call.integer("k", 1)
    if not 0 <= k <= x.shape[axis]:
        raise BadCall(f"k is {k}, and the axis has {x.shape[axis]} elements")
    values, indices = _sorted(x, axis, call.flag("ascending"))
    found = values.narrow(axis, 0, k), indices.narrow(axis, 0, k)
    return found if call.flag("return_indices", True) else found[:1]


def _tile(call: Call) -> Tensor:
    x, reps = call.stored("x"), call.integers("reps")
    if len(reps) != x.dim() or min(reps, default=1) < 0:
        raise BadCall(f"repetitions {reps} don't fit a tensor of rank {x.dim()}")
    call.promise(_products(x.shape, reps))
    return x.repeat(reps)


def _products(shape: Sequence[int], reps: Sequence[int]) -> list[int]:
    return [n * r for n, r in zip(shape, reps, strict=True)]


def _non_zero(call: Call) -> Tensor:
    return call.stored("x").nonzero()


OPERATIONS: dict[str, OpFunction] = {
    "argsort": _argsort,
    "band_part": _band_part,
    "concat": _concat,
    "cumsum": _cumsum,
    "fill": _fill,
    "fill_like": _fill_like,
    "non_zero": _non_zero,
    "one_hot": _one_hot,
    "pad": _pad,
    "range_1d": _range_1d,
    "shape": _shape,
    "split": _split,
    "stack": _stack,
    "tile": _tile,
    "topk": _topk,
}
