"""Ranges of whole activations, for 8-bit floats: one for everything that reads a node, and which cost too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import to_module
from cmexport.quantize.sensitivity import activation_sensitivity, run_unfinished
from cmexport.quantize.weights import weight_nodes

PICTURES = 64
"""Calibrated on. With 16 the worst of 256 demo pictures leaves the ranges by up to 9 %, with 64 by up to 4 %."""
MARGIN = 1.05
"""Ranges are widened by this: a value beyond the range costs far more than a 5 % coarser step."""
LEVELS = 255


@dataclass(frozen=True)
class ActivationRange:
    """What one activation is rounded to: uint8 codes, value = scale (code - zero_point).

    `name` is the node; `scale` is a half-precision number, so that storing it changes nothing.
    """

    name: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class ActivationPlan:
    """Activations in 8 bits, and those left alone.

    Attributes:
        ranges: what is rounded, in the graph's order.
        left: nodes that stay in floating point because they cost too much.
        predicted_db: PSNR, peak 2.0, that the rounding is predicted to leave.
    """

    ranges: tuple[ActivationRange, ...]
    left: tuple[str, ...]
    predicted_db: float


def weighted_inputs(module: fx.GraphModule) -> tuple[str, ...]:
    """Names of the nodes that feed compressible convolutions and linear layers, each once, in the graph's order.

    Only node results that float operations make; a graph's own input is left alone.
    """
    found: dict[str, None] = {}
    for node in weight_nodes(module):
        source = node.args[0]
        if isinstance(source, fx.Node) and source.op == "call_function":
            found[source.name] = None
    return tuple(found)


def plan_activations(
    captured: CapturedGraph,
    least_db: float,
    pictures: int = PICTURES,
    seed: int = 20_000,
) -> ActivationPlan:
    """Ranges of all activations; the most harmful ones are left in floating point until `least_db` is predicted."""
    module = to_module(captured.program)
    names = weighted_inputs(module)
    ranges = [_range(name, *limits) for name, limits in _limits(captured, module, names, pictures, seed).items()]
    harms = {
        r.name: sensitivity * r.scale**2 / 12.0
        for r, sensitivity in zip(ranges, activation_sensitivity(captured, names), strict=True)
    }
    allowed = 4.0 * 10 ** (-least_db / 10)
    left: list[str] = []
    for name in sorted(harms, key=lambda n: -harms[n]):
        if sum(h for n, h in harms.items() if n not in left) <= allowed:
            break
        left.append(name)
    error = sum(h for n, h in harms.items() if n not in left)
    predicted = float(10 * torch.log10(torch.tensor(4.0 / error))) if error else float("inf")
    return ActivationPlan(
        tuple(r for r in ranges if r.name not in left), tuple(n for n in names if n in left), predicted
    )


def _limits(
    captured: CapturedGraph, module: fx.GraphModule, names: Sequence[str], pictures: int, seed: int
) -> Mapping[str, tuple[float, float]]:
    """Smallest and largest value of every node over `pictures` pictures."""
    limits = dict.fromkeys(names, (0.0, 0.0))
    with torch.no_grad():
        for picture in range(pictures):
            inputs = captured.examples(seed + picture)
            _, values = run_unfinished(module, inputs, names)
            for name, value in values.items():
                low, high = limits[name]
                limits[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return limits


def _range(name: str, low: float, high: float) -> ActivationRange:
    """Codes 0 to 255 over the widened range; zero has a code of its own, for the padding of convolutions."""
    step = max(MARGIN * (high - low) / LEVELS, float(torch.finfo(torch.half).tiny))
    scale = float(torch.tensor(step).half())
    return ActivationRange(name, scale, min(LEVELS, max(0, round(-MARGIN * low / scale))))
