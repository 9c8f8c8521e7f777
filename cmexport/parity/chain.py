"""Runners in turn as one runner: what one gives, a later one takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median
from types import TracebackType
from typing import Self

from cmexport.parity.ladder import Rung
from cmexport.runner import Array, Runner


@dataclass(frozen=True)
class Link:
    """One of several graphs that run in turn: its name, how to open it, and the inputs it takes."""

    name: str
    open: Callable[[], Runner]
    takes: tuple[str, ...]


class ChainRunner:
    """Several runners in turn, each with the inputs and earlier results that it takes; the result is the last one's."""

    def __init__(self, links: Sequence[Link], clock: Callable[[], float] = time.perf_counter) -> None:
        self._links = links
        self._clock = clock
        self._stack = ExitStack()
        self._open: list[Runner] = []
        self._seconds: dict[str, list[float]] = {link.name: [] for link in links}

    @property
    def part_seconds(self) -> dict[str, float]:
        """Median seconds of each graph's runs so far, by its name."""
        return {name: median(seconds) for name, seconds in self._seconds.items() if seconds}

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run all in turn."""
        made: dict[str, Array] = dict(inputs)
        results: dict[str, Array] = {}
        for link, runner in zip(self._links, self._open, strict=True):
            taken = {name: made[name] for name in link.takes}
            begin = self._clock()
            results = runner(taken)
            self._seconds[link.name].append(self._clock() - begin)
            made |= results
        return results

    def __enter__(self) -> Self:
        self._open = [self._stack.enter_context(link.open()) for link in self._links]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = []
        self._stack.close()


def chained(parts: Sequence[tuple[str, tuple[Rung, ...], tuple[str, ...]]]) -> tuple[Rung, ...]:
    """Join the ladders of graphs that run in turn, each with its name and its inputs' names: rung by rung, one picture.

    Of graphs with ladders of different lengths, the shorter ones stay on their last rung. The gate is that of the
    longest, unless only some have one.
    """
    if len(parts) == 1:
        return parts[0][1]
    longest = max((rungs for _, rungs, _ in parts), key=len)
    found = []
    for level, rung in enumerate(longest):
        links = [Link(name, rungs[min(level, len(rungs) - 1)].open, takes) for name, rungs, takes in parts]
        found.append(Rung(rung.name, partial(ChainRunner, links), rung.gate_db))
    return tuple(found)
