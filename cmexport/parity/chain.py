"""Runners in turn as one runner: what one gives, a later one takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Self

from cmexport.parity.ladder import Rung
from cmexport.runner import Array, Runner


class ChainRunner:
    """Several runners, each with the names of the inputs it takes; the result is the last one's."""

    def __init__(self, parts: Sequence[tuple[Callable[[], Runner], tuple[str, ...]]]) -> None:
        self._parts = parts
        self._stack = ExitStack()
        self._open: list[tuple[Runner, tuple[str, ...]]] = []

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run all in turn."""
        made: dict[str, Array] = dict(inputs)
        results: dict[str, Array] = {}
        for runner, names in self._open:
            results = runner({name: made[name] for name in names})
            made |= results
        return results

    def __enter__(self) -> Self:
        self._open = [(self._stack.enter_context(open_()), names) for open_, names in self._parts]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = []
        self._stack.close()


def chained(parts: Sequence[tuple[tuple[Rung, ...], tuple[str, ...]]]) -> tuple[Rung, ...]:
    """Join the ladders of graphs that run in turn, each with the names of its inputs: rung by rung, one picture.

    Of graphs with ladders of different lengths, the shorter ones stay on their last rung. The gate is that of the
    longest, unless only some have one.
    """
    if len(parts) == 1:
        return parts[0][0]
    longest = max((rungs for rungs, _ in parts), key=len)
    found = []
    for level, rung in enumerate(longest):
        opened = [(rungs[min(level, len(rungs) - 1)].open, names) for rungs, names in parts]
        found.append(Rung(rung.name, partial(ChainRunner, opened), rung.gate_db))
    return tuple(found)
