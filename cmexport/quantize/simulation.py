"""The graph with some of its layers computing in 8 bits, run in PyTorch: what every decision here is judged by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import run_picture
from cmexport.graph.tracing import to_module
from cmexport.quantize.codes import LayerCodes
from cmexport.quantize.layers import Layer, LayerInterpreter, Multiply

PEAK_SQUARED = 4.0
"""Pictures go from -1 to 1."""


class Simulation:
    """Draws pictures from one captured graph, with any layers in 8 bits."""

    def __init__(self, captured: CapturedGraph) -> None:
        self._captured = captured
        self._module = to_module(captured.program)

    def inputs(self, seeds: Iterable[int]) -> list[dict[str, Tensor]]:
        """The graph's inputs for each seed."""
        return [self._captured.examples(seed) for seed in seeds]

    def pictures(self, inputs: Sequence[Mapping[str, Tensor]], codes: Iterable[LayerCodes] = ()) -> Tensor:
        """(pictures, ...) in float32 from -1 to 1, bytes too, with `codes`' layers in 8 bits."""
        chosen = {c.layer.key: c for c in codes}

        def at(layer: Layer, node: fx.Node, x: Tensor, multiply: Multiply) -> Tensor:
            del node
            return chosen[layer.key].computed(x, multiply)

        interpreter = LayerInterpreter(self._module, [c.layer for c in chosen.values()], at)
        with torch.no_grad():
            drawn = torch.cat([run_picture(interpreter, given) for given in inputs])
        return as_floats(drawn)


def as_floats(pictures: Tensor) -> Tensor:
    """Pictures in float32 from -1 to 1, bytes too."""
    return pictures.float() / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures.float()


def psnr_db(pictures: Tensor, exact: Tensor) -> Tensor:
    """Per picture, peak 2.0."""
    error = ((pictures - exact) ** 2).flatten(1).mean(dim=1)
    return 10 * torch.log10(PEAK_SQUARED / error.clamp_min(1e-20))
