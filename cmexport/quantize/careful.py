"""Weights alone in few bits where the sampler multiplies what they cost: rounded so that layers' outputs stay close.

Plain rounding is what a gate is measured by there (`verification.yardstick_for`), so a file has to do better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import to_module
from cmexport.model import LARGE_MODEL
from cmexport.quantize.calibration import CalibrationOptions, calibrate
from cmexport.quantize.codes import SMALLEST
from cmexport.quantize.layers import OPERATORS, Layer, WeightedOperator, find_layers
from cmexport.quantize.least_squares import round_by_least_squares
from cmexport.quantize.sensitivity import weight_sensitivity
from cmexport.quantize.weights import GraphWeight, weight_digest, weights_by_name, with_weights

_PICTURES = 32
"""For products of inputs; each brings hundreds of positions."""
_SAMPLES = 8
"""Gradients that rank layers."""


def round_carefully(
    captured: CapturedGraph,
    bits: int,
    block: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    operators: Mapping[Callable[..., Any], WeightedOperator] = OPERATORS,
    spared: float = 0.0,
) -> CapturedGraph:
    """Return the graph with weights on the grid that a file of `bits` has, rounded by least squares.

    Args:
        captured: after the rewrites.
        bits: of a code.
        block: input channels that share a scale; layers that it does not divide get 8 bits. None: all of an output
            channel share one.
        progress: told about the stages.
        operators: what multiplies by weights, besides how it holds them.
        spared: share of all elements that may stay in half precision: layers whose rounding costs the pictures most.
    """
    layers = find_layers(captured, operators)
    if not layers or sum(layer.weight.numel() for layer in layers) > LARGE_MODEL:
        return captured
    nodes = {node.name: node for node in to_module(captured.program).graph.nodes}
    statistics = calibrate(captured, layers, CalibrationOptions(_PICTURES, _PICTURES), progress).layers
    sensitivity = _sensitivities(captured, nodes, layers) if spared else {}
    progress("round weights")
    same: dict[str, list[Layer]] = {}
    for layer in layers:
        same.setdefault(weight_digest(layer.weight), []).append(layer)
    values: dict[str, Tensor] = {}
    harm: list[tuple[float, tuple[str, ...], Tensor]] = []
    for copies in same.values():
        # Steps have copies of one weight, which a file holds once: rounded once, for what all of them meet.
        grams = [gram for layer in copies if (gram := statistics[layer.key].gram) is not None]
        if len(grams) < len(copies):
            continue
        value = _rounded(copies[0].weight.float(), sum(grams[1:], grams[0]), bits, block)
        names = tuple(str(_weight_of(nodes[layer.nodes[0]]).target) for layer in copies)
        turned = copies[0].operator.transposed
        values |= dict.fromkeys(names, value.t() if turned else value)
        if sensitivity.keys() >= set(names):
            exact = copies[0].weight.t() if turned else copies[0].weight
            error = (values[names[0]] - exact) ** 2 * sum(sensitivity[name] for name in names)
            harm.append((float(error.sum()) / exact.numel(), names, exact.half().float()))
    left = spared * sum(layer.weight.numel() for layer in layers)
    for _, names, exact in sorted(harm, key=lambda h: -h[0]):
        if exact.numel() <= left:
            left -= exact.numel()
            values |= dict.fromkeys(names, exact)
    return with_weights(captured, values)


def _sensitivities(captured: CapturedGraph, nodes: Mapping[str, fx.Node], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """Mean squared error of the picture per squared error of each element, by the weight's name."""
    known = weights_by_name(to_module(captured.program))
    names = [str(_weight_of(nodes[layer.nodes[0]]).target) for layer in layers]
    weights = tuple(GraphWeight((name,), known[name].detach()) for name in names if name in known)
    found = weight_sensitivity(captured, weights, _SAMPLES)
    return {weight.names[0]: value for weight, value in zip(weights, found, strict=True)}


def _weight_of(node: fx.Node) -> fx.Node:
    source = node.args[1]
    assert isinstance(source, fx.Node)
    return source


def _rounded(weight: Tensor, gram: Tensor, bits: int, block: int | None) -> Tensor:
    shape = weight.shape
    blocked = block is not None and shape[1] % block == 0
    top = (1 << (bits - 1 if block is None or blocked else 7)) - 1
    groups = weight.reshape(shape[0], -1, block, *shape[2:]) if block and blocked else weight.reshape(shape[0], 1, -1)
    steps = _half_steps((groups.abs().amax(2, keepdim=True) / top).clamp_min(SMALLEST)).expand_as(groups)
    steps = steps.reshape(shape).flatten(1).contiguous()
    codes = round_by_least_squares(weight.flatten(1), gram, steps, top)
    rounded: Tensor = (codes * steps).reshape(shape)
    return rounded


def _half_steps(steps: Tensor) -> Tensor:
    """Round to half precision, as which a file has them, where that is not subnormal."""
    near = steps.half().float()
    return torch.where((steps >= torch.finfo(torch.half).tiny) & near.isfinite(), near, steps)
