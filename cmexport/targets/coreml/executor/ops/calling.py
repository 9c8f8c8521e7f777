"""What an operation's implementation is given: its arguments by name, ready to compute with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.modes import Arithmetic
from cmexport.targets.coreml.executor.program import MilOp
from cmexport.targets.coreml.executor.values import TORCH_TYPES, Value, matches


class BadCall(Exception):  # noqa: N818 - never leaves the package: the interpreter makes a CheckpointError of it
    """Arguments an operation can't have; the message says why, without file or operation."""


_NARROW = (torch.float16, torch.bfloat16)

_KEPT_BYTES = 2**29
"""What tensors made of constants may take for one program; float32 weights of 134 million parameters."""

Made = TypeVar("Made")


class Room:
    """Bytes left for tensors that are kept between calls; one for all operations of a program."""

    def __init__(self, size: int = _KEPT_BYTES) -> None:
        self._left = size

    def takes(self, thing: object) -> bool:
        """Whether there is room for the thing, which is then counted. Only tensors count, alone or as attributes."""
        size = sum(t.nbytes for t in (thing, *getattr(thing, "__dict__", {}).values()) if isinstance(t, Tensor))
        if size > self._left:
            return False
        self._left -= size
        return True


class Memo:
    """What one operation has made of its constant arguments.

    Args:
        varying: parameters that have other values in every call.
        room: what may be kept; None is nothing.
    """

    def __init__(self, varying: frozenset[str], room: Room | None = None) -> None:
        self._varying, self._room = varying, room
        self._made: dict[object, Any] = {}

    def get(self, key: object, names: Sequence[str], make: Callable[[], Made]) -> Made:
        """Take what is kept, or make it; see `Call.prepared`."""
        if key in self._made:
            found: Made = self._made[key]
            return found
        made = make()
        if self._room is not None and self._varying.isdisjoint(names) and self._room.takes(made):
            self._made[key] = made
        return made


@dataclass(frozen=True)
class Call:
    """One execution of one operation.

    Attributes:
        op: the operation.
        arguments: values by parameter, as stored.
        arithmetic: how to round on the way.
        opset: of the function, as a number: 5 (iOS 15) … 8 (iOS 18).
        memo: what was made of constant arguments in the calls before.
    """

    op: MilOp
    arguments: Mapping[str, tuple[Value, ...]]
    arithmetic: Arithmetic
    opset: int
    memo: Memo = field(default_factory=lambda: Memo(frozenset()))

    def prepared(self, key: object, names: Sequence[str], make: Callable[[], Made]) -> Made:
        """Something that depends on `names` alone: made once where they are constant, else for every call.

        It must not be changed afterwards.

        Args:
            key: tells it from the operation's other ones.
            names: parameters, also those that aren't given.
            make: makes it.
        """
        return self.memo.get(key, names, make)

    def has(self, name: str) -> bool:
        """Whether an optional parameter is given."""
        return bool(self.arguments.get(name))

    def value(self, name: str) -> Value:
        """A required parameter as it is stored."""
        values = self.arguments.get(name, ())
        if len(values) != 1:
            raise BadCall(f"parameter '{name}' is {'missing' if not values else 'given several times'}")
        return values[0]

    def stored(self, name: str) -> Tensor:
        """A required tensor in its stored type, for operations that only move data."""
        value = self.value(name)
        if not isinstance(value, Tensor):
            raise BadCall(f"parameter '{name}' is text where a tensor belongs")
        return value

    def tensor(self, name: str) -> Tensor:
        """A required tensor to compute with: float16 is widened to float32."""
        value = self.stored(name)
        if value.dtype not in _NARROW:
            return value
        return self.prepared(("wide", name), (name,), value.float)

    def optional(self, name: str) -> Tensor | None:
        """An optional tensor to compute with."""
        return self.tensor(name) if self.has(name) else None

    def tensors(self, name: str) -> list[Tensor]:
        """A variadic parameter's tensors in their stored types."""
        values = self.arguments.get(name, ())
        tensors = [v for v in values if isinstance(v, Tensor)]
        if not tensors or len(tensors) < len(values):
            raise BadCall(f"parameter '{name}' needs tensors")
        return tensors

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A vector of integers."""
        if default is not None and not self.has(name):
            return list(default)
        numbers = self.prepared(("list", name), (name,), lambda: self.stored(name).flatten().tolist())
        return [int(v) for v in numbers]

    def integer(self, name: str, default: int | None = None) -> int:
        """One integer."""
        if default is not None and not self.has(name):
            return default
        return int(self._item(name))

    def real(self, name: str, default: float | None = None) -> float:
        """One number."""
        if default is not None and not self.has(name):
            return default
        return float(self._item(name))

    def _item(self, name: str) -> float:
        return self.prepared(("item", name), (name,), lambda: self.stored(name).item())

    def flags(self, name: str, length: int) -> list[bool]:
        """A vector of booleans, all false by default."""
        return [bool(v) for v in self.integers(name, [0] * length)]

    def flag(self, name: str, default: bool = False) -> bool:
        """One boolean."""
        return bool(self.integer(name, int(default)))

    def text(self, name: str, default: str | None = None) -> str:
        """One string."""
        if default is not None and not self.has(name):
            return default
        value = self.value(name)
        if not isinstance(value, str):
            raise BadCall(f"parameter '{name}' is a tensor where text belongs")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """One string out of a few."""
        value = self.text(name, default)
        if value not in choices:
            raise BadCall(f"parameter '{name}' is {value!r}, not one of {', '.join(choices)}")
        return value

    def axes(self, name: str, rank: int, default: Sequence[int] | None = None) -> list[int]:
        """Axes, counted from the front."""
        return [axis(v, rank) for v in self.integers(name, default)]

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """One axis, counted from the front."""
        return axis(self.integer(name, default), rank)

    def promise(self, shape: Sequence[int], output: int = 0) -> None:
        """Check the result's shape before it is computed: called where a parameter decides how large it gets.

        Raises:
            BadCall: it is not the declared one.
        """
        declared = self.op.outputs[output].type.shape
        limited(shape)
        if not matches(tuple(shape), declared):
            raise BadCall(f"its result would have shape {list(shape)}, and the program says {list(declared)}")

    def output_type(self, output: int = 0) -> torch.dtype:
        """The type a result is stored in."""
        return TORCH_TYPES[self.op.outputs[output].type.dtype]


Result: TypeAlias = Tensor | tuple[Tensor, ...]
OpFunction: TypeAlias = Callable[[Call], Result]


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, everything else as it is."""
    return x.float() if x.dtype in _NARROW else x


def limited(shape: Sequence[int]) -> None:
    """Check the size of something about to be made.

    Raises:
        BadCall: its shape is impossible, or it is larger than anything a sane program needs (4 GiB in float32).
    """
    if min(shape, default=0) < 0 or math.prod(shape) > 2**30:
        raise BadCall(f"it needs a tensor of impossible shape {list(shape)}")


def broadcast(*tensors: Tensor) -> tuple[int, ...]:
    """The shape that tensors broadcast to.

    Raises:
        BadCall: they don't.
    """
    rank = max(t.dim() for t in tensors)
    shape = []
    for extents in zip(*((1,) * (rank - t.dim()) + tuple(t.shape) for t in tensors), strict=True):
        sizes = {n for n in extents if n != 1}
        if len(sizes) > 1:
            raise BadCall(f"shapes {', '.join(str(list(t.shape)) for t in tensors)} don't broadcast")
        shape.append(sizes.pop() if sizes else 1)
    return tuple(shape)


def axis(value: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        BadCall: there is no such axis.
    """
    if not -rank <= value < max(rank, 1):
        raise BadCall(f"there is no axis {value} in a tensor of rank {rank}")
    return value % max(rank, 1)
