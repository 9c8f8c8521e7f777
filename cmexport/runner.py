"""What `verify`, `sample` and `bench` know about a backend: a callable from named arrays to named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from cmexport.errors import BackendError

Array = npt.NDArray[np.generic]


def picture_of(results: Mapping[str, Array]) -> Array:
    """Return the one array that a sampler's graph gives, whatever its name there.

    Raises:
        BackendError: it gives several, or none.
    """
    if len(results) != 1:
        raise BackendError(f"one output is expected, the pictures, not {', '.join(results) or 'none'}")
    return next(iter(results.values()))


class Runner(Protocol):
    """An opened graph with a static batch size. Use as a context manager: leaving it frees the backend's memory."""

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on exactly the graph's named inputs."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class InParts(Protocol):
    """A runner of several graphs in turn."""

    @property
    def part_seconds(self) -> dict[str, float]:
        """Median seconds of each graph's runs so far, by its name."""
        ...
