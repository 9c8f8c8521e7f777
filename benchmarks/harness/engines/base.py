"""What a child process expects of an engine."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.harness.specs import EngineSpec, HostLoop

Picture = npt.NDArray[np.float32]


class Engine(Protocol):
    """Constructed from a spec; then `prepare`, `load`, and any number of `run`."""

    def prepare(self) -> None:
        """Import libraries and set threads: not part of the load time."""

    def load(self) -> None:
        """From files to ready to run."""

    def run(self) -> None:
        """One timed run on the engine's own inputs; the picture stays where the engine leaves it."""

    def picture(self) -> Picture:
        """(N, C, H, W) in [-1, 1] for the inputs of `inputs_for`."""
        ...

    def arithmetic(self) -> str:
        """Precision the products are computed in."""
        ...


def inputs_for(spec: EngineSpec) -> tuple[Picture, npt.NDArray[np.int64] | None]:
    """The same unit noise (N, C, H, W) for every engine; picture i has label i modulo classes."""
    noise = np.random.default_rng(0).standard_normal(spec.shape, dtype=np.float32)
    labels = None if spec.classes is None else np.arange(spec.shape[0], dtype=np.int64) % spec.classes
    return noise, labels


class NumpyLoop:
    """The sampling step on the host, as a user of a bare network would write it."""

    def __init__(self, loop: HostLoop) -> None:
        self._loop = loop

    def scale(self, noise: Picture) -> tuple[Picture, Picture]:
        """The sample x and the network's input c_in x."""
        x = noise * np.float32(self._loop.sigma)
        return x, x * np.float32(self._loop.c_in)

    def combine(self, x: Picture, output: Any) -> Picture:
        """The picture from the sample and the network's output."""
        image = np.float32(self._loop.c_skip) * x + np.float32(self._loop.c_out) * output
        return np.clip(image, -1.0, 1.0) if self._loop.clamp else image
