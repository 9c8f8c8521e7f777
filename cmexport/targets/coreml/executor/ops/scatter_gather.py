"""Reading and writing at positions given by a tensor.

Negative positions count from the end before iOS 17; since then they are undefined, and coremltools emits a `select` in
front that wraps them, so wrapping them here changes nothing. A position beyond the end is refused, not clamped.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction

MODES = ("update", "add", "sub", "mul", "div", "max", "min")


def _positions(indices: Tensor, size: int) -> Tensor:
    """Indices as int64 in 0 … size - 1."""
    wrapped = indices.long()
    wrapped = torch.where(wrapped < 0, wrapped + size, wrapped)
    if wrapped.numel() and (int(wrapped.min()) < 0 or int(wrapped.max()) >= size):
        worst = indices.flatten()[int(((wrapped < 0) | (wrapped >= size)).flatten().nonzero()[0])]
        raise BadCall(f"index {int(worst)} is outside 0 … {size - 1}")
    return wrapped


def _gather(call: Call) -> Tensor:
    x, indices = call.stored("x"), call.stored("indices")
    axis, batch = call.axis("axis", x.dim(), 0), call.integer("batch_dims", 0)
    if not 0 <= batch <= min(axis, indices.dim()):
        raise BadCall(f"batch_dims is {batch}, with axis {axis} and indices of rank {indices.dim()}")
    positions = _positions(indices, x.shape[axis])
    call.promise([*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :]])
    if batch == 0:
        taken = x.index_select(axis, positions.flatten())
        return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    rows = zip(x.flatten(0, batch - 1), positions.flatten(0, batch - 1), strict=True)
    taken = torch.stack([row.index_select(axis - batch, where.flatten()) for row, where in rows])
    return taken.reshape(*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :])


def _gather_along_axis(call: Call) -> Tensor:
    x, indices = call.stored("x"), call.stored("indices")
    axis = call.axis("axis", x.dim(), 0)
    return torch.take_along_dim(x, _positions(indices, x.shape[axis]), axis)


def _flat_positions(indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Vectors of coordinates along the last axis as positions in a flattened tensor of that shape."""
    result = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(shape):
        result = result * size + _positions(indices[..., i], size)
    return result


def _gather_nd(call: Call) -> Tensor:
    x, indices = call.stored("x"), call.stored("indices")
    batch, depth = call.integer("batch_dims", 0), indices.shape[-1]
    if batch < 0 or batch + depth > x.dim() or x.shape[:batch] != indices.shape[:batch]:
        raise BadCall(f"x of {list(x.shape)}, indices of {list(indices.shape)} and batch_dims {batch} don't fit")
    rest = x.shape[batch + depth :]
    call.promise([*indices.shape[:-1], *rest])
    if batch == 0:
        positions = _flat_positions(indices, tuple(x.shape[:depth]))
        return x.reshape(-1, *rest)[positions]
    count = math.prod(x.shape[:batch])
    rows = zip(x.reshape(count, *x.shape[batch:]), indices.reshape(count, *indices.shape[batch:]), strict=True)
    taken = [row.reshape(-1, *rest)[_flat_positions(where, tuple(row.shape[:depth]))] for row, where in rows]
    return torch.stack(taken).reshape(*indices.shape[:-1], *rest)


def _reduced(data: Tensor, where: Tensor, new: Tensor, how: str) -> Tensor:
    rows = where.reshape(-1, *[1] * (new.dim() - 1)).expand(new.shape)
    return data.scatter_reduce(0, rows, new, how)


_COMBINED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "update": lambda data, where, new: data.index_copy(0, where, new),
    "add": lambda data, where, new: data.index_add(0, where, new),
    "sub": lambda data, where, new: data.index_add(0, where, -new),
    "mul": lambda data, where, new: _reduced(data, where, new, "prod"),
    "div": lambda data, where, new: data / _reduced(torch.ones_like(data), where, new, "prod"),
    "max": lambda data, where, new: _reduced(data, where, new, "amax"),
    "min": lambda data, where, new: _reduced(data, where, new, "amin"),
}
"""Each takes rows (R, …), positions (I,) and new rows (I, …)."""


def _combine(call: Call, rows: Tensor, positions: Tensor, updates: Tensor, default: str = "add") -> Tensor:
    return _COMBINED[call.choice("mode", MODES, default)](rows, positions, updates)


def _scatter(call: Call) -> Tensor:
    data, indices, updates = call.tensor("data"), call.stored("indices"), call.tensor("updates")
    axis = call.axis("axis", data.dim(), 0)
    if indices.dim() > 1 or updates.shape != (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]):
        raise BadCall(f"data of {list(data.shape)} and updates of {list(updates.shape)} don't fit")
    positions = _positions(indices, data.shape[axis]).reshape(-1)
    new = updates.reshape(*data.shape[:axis], -1, *data.shape[axis + 1 :]).movedim(axis, 0)
    return _combine(call, data.movedim(axis, 0), positions, new).movedim(0, axis)


def _scatter_along_axis(call: Call) -> Tensor:
    """Every element has a position of its own: scattered into the flattened tensor."""
    data, indices, updates = call.tensor("data"), call.stored("indices"), call.tensor("updates")
    axis = call.axis("axis", data.dim(), 0)
    if indices.dim() != data.dim() or indices.shape != updates.shape:
        raise BadCall(f"indices of {list(indices.shape)} and updates of {list(updates.shape)} don't fit")
    positions = torch.zeros(indices.shape, dtype=torch.int64)
    for i, size in enumerate(data.shape):
        if i != axis and indices.shape[i] > size:
            raise BadCall(f"indices of {list(indices.shape)} don't fit data of {list(data.shape)}")
        along = (
            _positions(indices, size)
            if i == axis
            else torch.arange(indices.shape[i]).reshape([-1 if j == i else 1 for j in range(data.dim())])
        )
        positions = positions * size + along
    return _combine(call, data.reshape(-1), positions.flatten(), updates.flatten()).reshape(data.shape)


def _scatter_nd(call: Call) -> Tensor:
    data, indices, updates = call.tensor("data"), call.stored("indices"), call.tensor("updates")
    depth = indices.shape[-1]
    if depth > data.dim() or updates.shape != (*indices.shape[:-1], *data.shape[depth:]):
        raise BadCall(f"data of {list(data.shape)} and updates of {list(updates.shape)} don't fit")
    positions = _flat_positions(indices, tuple(data.shape[:depth])).flatten()
    rows = data.reshape(-1, *data.shape[depth:])
    return _combine(call, rows, positions, updates.reshape(-1, *data.shape[depth:])).reshape(data.shape)


OPERATIONS: dict[str, OpFunction] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}
