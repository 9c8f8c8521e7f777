"""Weights alone in few bits where the sampler multiplies what they cost: rounded so that layers' outputs stay close.

Plain rounding is what a gate is measured by there (`verification.yardstick_for`), so a file has to do better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import to_module
from cmexport.model import LARGE_MODEL
from cmexport.quantize.calibration import CalibrationOptions, calibrate
from cmexport.quantize.codes import SMALLEST
from cmexport.quantize.layers import OPERATORS, Layer, WeightedOperator, find_layers
from cmexport.quantize.least_squares import round_by_least_squares
from cmexport.quantize.weights import weight_digest, with_weights

_PICTURES = 32
"""For products of inputs; each brings 256 positions or more. 64 of lcm-emoji take twice as long and gain 0.1 dB."""


def round_carefully(
    captured: CapturedGraph,
    bits: int,
    block: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    operators: Mapping[Callable[..., Any], WeightedOperator] = OPERATORS,
) -> CapturedGraph:
    """Return the graph with weights on the grid that a file of `bits` has, rounded by least squares.

    Args:
        captured: after the rewrites.
        bits: of a code.
        block: input channels that share a scale, where it divides them; else all of an output channel do.
        progress: told about the stages.
        operators: what multiplies by weights, besides how it holds them.
    """
    layers = find_layers(captured, operators)
    if not layers or sum(layer.weight.numel() for layer in layers) > LARGE_MODEL:
        return captured
    nodes = {node.name: node for node in to_module(captured.program).graph.nodes}
    statistics = calibrate(captured, layers, CalibrationOptions(_PICTURES, _PICTURES), progress).layers
    progress("round weights")
    same: dict[str, list[Layer]] = {}
    for layer in layers:
        same.setdefault(weight_digest(layer.weight), []).append(layer)
    values: dict[str, Tensor] = {}
    for copies in same.values():
        # Steps have copies of one weight, which a file holds once: rounded once, for what all of them meet.
        grams = [gram for layer in copies if (gram := statistics[layer.key].gram) is not None]
        if len(grams) < len(copies):
            continue
        value = _rounded(copies[0].weight.float(), sum(grams[1:], grams[0]), bits, block)
        for layer in copies:
            name = str(_weight_of(nodes[layer.nodes[0]]).target)
            values[name] = value.t() if layer.operator.transposed else value
    return with_weights(captured, values)


def _weight_of(node: fx.Node) -> fx.Node:
    source = node.args[1]
    assert isinstance(source, fx.Node)
    return source


def _rounded(weight: Tensor, gram: Tensor, bits: int, block: int | None) -> Tensor:
    top = (1 << (bits - 1)) - 1
    if block is not None and weight.shape[1] % block == 0:
        blocks = weight.unflatten(1, (-1, block))
        scale = (blocks.abs().amax(2, keepdim=True) / top).clamp_min(SMALLEST).expand_as(blocks).flatten(1, 2)
    else:
        shape = (-1, *(1,) * (weight.dim() - 1))
        scale = (weight.flatten(1).abs().amax(1) / top).clamp_min(SMALLEST).reshape(shape).expand_as(weight)
    steps = scale.flatten(1).contiguous()
    codes = round_by_least_squares(weight.flatten(1), gram, steps, top)
    return (codes * steps).reshape(weight.shape)
