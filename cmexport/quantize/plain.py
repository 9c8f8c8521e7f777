"""A precision without any care, in PyTorch: what an artefact of that precision must at least reach.

Weights go to the nearest of evenly spaced values per output channel, activations of layers to 256 values between their
own least and largest, all else stays in float32; half precision is bfloat16, every result rounded (PyTorch's float16
takes minutes on a CPU).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import run_picture
from cmexport.graph.exact import ExactRunner
from cmexport.graph.fxtools import dependence
from cmexport.quantize.codes import LAST, SMALLEST
from cmexport.quantize.formats import WeightFormat
from cmexport.quantize.rounding import rounded
from cmexport.quantize.weights import find_weights, set_weights, weight_nodes

PLAIN_BITS: Mapping[str, int] = MappingProxyType({"w8": 8, "a16w8": 8, "int8": 8, "fp8": 8, "w6": 6, "w4": 4})
"""Of weights, by precision."""
_ROUNDS_ACTIVATIONS = {"int8", "fp8"}


class PlainRunner(ExactRunner):
    """The captured graph in a key of `PLAIN_BITS`, or in bfloat16 for other precisions."""

    def __init__(self, captured: CapturedGraph, precision: str) -> None:
        super().__init__(captured)
        self._layers: set[fx.Node] = set()
        self._bits = PLAIN_BITS.get(precision)
        if self._bits is not None:
            for weight in find_weights(self._module):
                value = rounded(weight.value, None, WeightFormat("linear", self._bits))
                set_weights(self._module, dict.fromkeys(weight.names, value))
        if precision in _ROUNDS_ACTIVATIONS:
            self._layers = set(weight_nodes(self._module))

    def _draw(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if self._bits is None:
            return run_picture(_Bfloat16(self._module), inputs)
        return run_picture(_RoundedInputs(self._module, self._layers), inputs)


class _RoundedInputs(fx.Interpreter):
    """Rounds what chosen layers read to 8 bits, one step for all channels."""

    def __init__(self, module: fx.GraphModule, layers: set[fx.Node]) -> None:
        super().__init__(module)
        self._layers = layers

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, its first operand rounded."""
        if n not in self._layers:
            return super().run_node(n)
        (x, *others), named = self.fetch_args_kwargs_from_env(n)
        step = ((x.amax() - x.amin()) / LAST).clamp_min(SMALLEST)
        low = (x.amin() / step).round()
        x = ((x / step).round() - low).clamp(0, LAST).add(low) * step
        return self.call_function(n.target, (x, *others), named)


class _Bfloat16(fx.Interpreter):
    """Rounds operands and results of all that depends on an input; constants, as of the time embedding, are exact."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._sources = dependence(module.graph)

    def run_node(self, n: fx.Node) -> Any:
        """Run the node in float32 between two roundings."""
        if n.op != "call_function" or not self._sources[n]:
            return super().run_node(n)
        args, kwargs = fx.node.map_aggregate(self.fetch_args_kwargs_from_env(n), _round)
        return fx.node.map_aggregate(self.call_function(n.target, args, kwargs), _round)


def _round(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.bfloat16().float()
    return value
