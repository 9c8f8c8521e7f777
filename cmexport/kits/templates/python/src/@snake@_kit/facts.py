"""Nouns for what a model is; `model_facts` has this model's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file of the model, below `model/`."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Tensor:
    """An input or output: its name, a numpy dtype, its shape, and the least and largest number it takes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Graph:
    """A file to run, the names that it takes and the one that it gives."""

    file: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Run:
    """Graphs that make one picture in turn."""

    name: str
    graphs: tuple[Graph, ...]
    inputs: tuple[Tensor, ...]
    output: Tensor

    def input(self, name: str) -> Tensor | None:
        """Find an input by its name."""
        return next((tensor for tensor in self.inputs if tensor.name == name), None)
