"""The captured graph in float64 as a runner: how far the float32 reference itself is from the truth."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import exact_picture
from cmexport.graph.tracing import to_module
from cmexport.runner import Array


class ExactRunner:
    """Interprets a graph with every weight widened to float64 as it is used."""

    def __init__(self, captured: CapturedGraph) -> None:
        self._module = to_module(captured.program)
        self._output = captured.signature.output.name

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; the picture comes back as float64 (bytes stay bytes)."""
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        with torch.no_grad():
            return {self._output: self._draw(tensors).numpy()}

    def _draw(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return exact_picture(self._module, inputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._module
