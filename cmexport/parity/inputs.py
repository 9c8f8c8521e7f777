"""Inputs that anybody can draw again: picture i depends on nothing but its seed; see `signature.border`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from cmexport.errors import UsageError
from cmexport.runner import Array
from cmexport.signature import Signature


@dataclass(frozen=True)
class VerificationInputs(Sequence[dict[str, Array]]):
    """One dict of arrays per run of a graph with a static batch, drawn when asked for.

    Attributes:
        signature: the graph's border.
        pictures: pictures over all runs, a multiple of the batch.
        seed: picture i comes from seed + i.
        first: number of the first picture.
        recorded: runs to take instead of drawing any.
    """

    signature: Signature
    pictures: int
    seed: int
    first: int = 0
    recorded: Sequence[dict[str, Array]] = ()

    @property
    def batch(self) -> int:
        """Pictures per run of the graph."""
        return self.signature.batch

    def __len__(self) -> int:
        """Count the runs."""
        return self.pictures // self.batch

    @overload
    def __getitem__(self, index: int) -> dict[str, Array]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Array]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Array] | list[dict[str, Array]]:
        """Return the inputs of one run: consecutive pictures, in the graph's dtypes."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if self.recorded:
            return self.recorded[index]
        return self.signature.draw(self.first + (index % len(self)) * self.batch, self.seed)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Give the runs' inputs in order."""
        return (self[i] for i in range(len(self)))


def draw_inputs(signature: Signature, pictures: int, seed: int = 0, *, first: int = 0) -> VerificationInputs:
    """Draw inputs for at least `pictures` pictures, rounded up to whole runs of the graph.

    Args:
        signature: the graph's border.
        pictures: how many pictures, at least 1.
        seed: picture i comes from seed + i.
        first: number of the first picture.

    Raises:
        UsageError: no pictures asked for, or an input that can't be drawn.
        CheckpointError: no input counts pictures.
    """
    batch = signature.batch
    for each in signature.inputs:
        _ = each.drawn
    if pictures < 1:
        raise UsageError(f"{pictures} pictures: at least 1 is needed")
    return VerificationInputs(signature, -(-pictures // batch) * batch, seed, first)
