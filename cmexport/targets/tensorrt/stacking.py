"""Run pictures on a graph for another batch than they come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import numpy as np

from cmexport.runner import Array, Runner
from cmexport.signature.known import picture_axis


class StackedRunner:
    """Takes N pictures a call and runs them on a graph for `batch` of them.

    What is missing to a whole run is filled with the pictures of the call before, so that a graph that mixes pictures
    up gives itself away: its neighbours are others each time. The first call has its own pictures for neighbours, times
    -1.

    Args:
        open_runner: opens the runner of the graph.
        batch: of that graph.
    """

    def __init__(self, open_runner: Callable[[], Runner], batch: int) -> None:
        self._batch = batch
        self._before: Mapping[str, Array] | None = None
        self._runner = open_runner()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run as often as it takes; the pictures come back in order, without the fill."""
        axes = {name: picture_axis(name) for name in inputs}
        pictures = next(array.shape[axes[name]] for name, array in inputs.items())
        runs = -(-pictures // self._batch)
        missing = runs * self._batch - pictures
        before = self._before or {n: np.negative(a) if a.dtype.kind == "f" else a for n, a in inputs.items()}
        self._before = inputs
        filled = {
            name: np.concatenate([array, _repeated(before[name], axes[name], missing)], axes[name])
            for name, array in inputs.items()
        }
        results = [
            self._runner(
                {
                    name: np.ascontiguousarray(np.take(array, range(first, first + self._batch), axes[name]))
                    for name, array in filled.items()
                }
            )
            for first in range(0, runs * self._batch, self._batch)
        ]
        return {name: np.concatenate([r[name] for r in results])[:pictures] for name in results[0]}

    def __enter__(self) -> Self:
        self._runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, trace)


def _repeated(array: Array, axis: int, count: int) -> Array:
    """`count` pictures out of an array, from its start again where it has too few."""
    taken: Array = np.take(array, np.arange(count) % array.shape[axis], axis)
    return taken
