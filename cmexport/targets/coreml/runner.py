"""Run a written package: in the executor on any machine, or in Core ML itself on a Mac."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from cmexport.errors import BackendError, first_line
from cmexport.runner import Array
from cmexport.targets.coreml.executor import Executor, read_program
from cmexport.targets.coreml.executor.modes import Mode
from cmexport.targets.coreml.library import coremltools


def as_taken(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Core ML knows no int64."""
    return {name: a.astype(np.int32) if a.dtype == np.int64 else a for name, a in inputs.items()}


def as_image(array: Array) -> Array:
    """What Core ML makes of an image output, (N, H, W, C) bytes; the graph has rounded them already."""
    return np.clip(np.rint(array), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


class ExecutorRunner:
    """The saved program in our executor; see `executor` for what its modes mean.

    Raises:
        CheckpointError: the package is damaged, or holds operations that the executor doesn't know.
    """

    def __init__(self, package: Path, function: str | None = None, mode: Mode = "ideal") -> None:
        program = read_program(package)
        self._images = program.image_outputs
        self._run: Any = Executor(program, function, mode)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once."""
        results = self._run(as_taken(inputs))
        return {n: as_image(array) if n in self._images else array for n, array in results.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run = None


class PredictRunner:
    """Core ML's own prediction on some of a Mac's units: "CPU_ONLY", "CPU_AND_GPU" or "CPU_AND_NE".

    Needs macOS; it can't be run on the machines that the tests run on.

    Raises:
        BackendError: Core ML can't load the package.
    """

    def __init__(self, package: Path, function: str | None, units: str) -> None:
        ct = coremltools()
        try:
            self._model: Any = ct.models.MLModel(
                str(package), compute_units=getattr(ct.ComputeUnit, units), function_name=function
            )
        except Exception as error:  # Core ML's errors arrive as plain RuntimeErrors
            raise BackendError(f"{package}: Core ML can't load it: {first_line(error)}") from error

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Predict once; an image output arrives as a picture."""
        try:
            results = self._model.predict(as_taken(inputs))
        except Exception as error:
            raise BackendError(f"Core ML failed while predicting: {first_line(error)}") from error
        return {name: _from_core_ml(value) for name, value in results.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._model = None


def _from_core_ml(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    mode = "L" if value.mode == "L" else "RGB"
    picture = np.asarray(value.convert(mode), dtype=np.uint8)
    return picture.reshape(1, *picture.shape[:2], -1)
