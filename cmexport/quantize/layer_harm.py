"""Which layers to leave in floating point first: most of the picture's error for least of the time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from cmexport.graph.fxtools import shape_of
from cmexport.graph.tracing import to_module
from cmexport.quantize.codes import INTEGER_PRODUCTS
from cmexport.quantize.int8 import TRIAL_SEED, Prepared
from cmexport.quantize.layers import Layer
from cmexport.quantize.simulation import Simulation

PICTURES = 4
"""Each layer alone, in 8 bits: errors of layers differ by a factor of 1,000, so few pictures rank them."""


def float_order(prepared: Prepared, progress: Callable[[str], None] = lambda _: None) -> tuple[str, ...]:
    """Keys of the calibrated layers, those first whose error is largest for the multiplications they need.

    A layer left in floating point costs time about in proportion to its multiplications; errors of layers add up.
    """
    simulation = Simulation(prepared.captured)
    inputs = simulation.inputs(range(TRIAL_SEED, TRIAL_SEED + PICTURES))
    exact = simulation.pictures(inputs)
    work = _multiplications(prepared)
    worth = {}
    for layer in prepared.layers:
        if layer.key not in prepared.calibration.layers:
            continue
        progress(f"harm of {layer.key}")
        codes = prepared.encoded(layer, INTEGER_PRODUCTS)
        error = float(torch.mean((simulation.pictures(inputs, [codes]) - exact) ** 2))
        worth[layer.key] = error / work[layer.key]
    return tuple(sorted(worth, key=lambda key: -worth[key]))


def _multiplications(prepared: Prepared) -> dict[str, float]:
    """By layer key, over all its evaluations."""
    module = to_module(prepared.captured.program)
    by_name: dict[str, Layer] = {name: layer for layer in prepared.layers for name in layer.nodes}
    found = dict.fromkeys((layer.key for layer in prepared.layers), 0.0)
    for node in module.graph.nodes:
        if (layer := by_name.get(node.name)) is not None:
            shape = shape_of(node)
            positions = shape[0] * (shape[2] * shape[3] if layer.operator.kind == "conv" else shape[1])
            found[layer.key] += float(positions * layer.weight.numel())
    return found
