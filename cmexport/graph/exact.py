"""The captured graph in float64 as a runner: how far the float32 reference itself is from the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import torch

from cmexport.graph.capture import CapturedGraph, to_module
from cmexport.graph.evaluate import Float64Interpreter
from cmexport.runner import Array


class ExactRunner:
    """Interprets a graph with every weight widened to float64 as it is used; `closed` is called on leaving."""

    def __init__(self, captured: CapturedGraph, closed: Callable[[], None] = lambda: None) -> None:
        self._module = to_module(captured.program)
        self._closed = closed
        self._names = tuple(n.name for n in self._module.graph.nodes if n.op == "placeholder")

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; the picture comes back as float64 (bytes stay bytes)."""
        with torch.no_grad():
            values = [torch.from_numpy(inputs[name]) for name in self._names]
            widened = [v.double() if v.is_floating_point() else v for v in values]
            result = Float64Interpreter(self._module).run(*widened, enable_io_processing=False)
        while isinstance(result, tuple | list):
            result = result[0]
        return {"image": result.numpy()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._module
        self._closed()
