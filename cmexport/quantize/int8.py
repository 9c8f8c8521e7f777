"""From a captured graph and a plan to layers in 8 bits: calibrate, encode, correct, and say what to expect."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import shape_of
from cmexport.model import LARGE_MODEL
from cmexport.quantize.bias_correction import correct_biases
from cmexport.quantize.calibration import Calibration, CalibrationOptions, calibrate
from cmexport.quantize.codes import LayerCodes, Scheme, encode
from cmexport.quantize.layers import OPERATORS, Layer, WeightedOperator, find_layers
from cmexport.quantize.precision_plan import INT8, PrecisionPlan, check_keys
from cmexport.quantize.simulation import Simulation, psnr_db

LARGE_MODEL_CALIBRATION = CalibrationOptions(pictures=24, gram_pictures=0)
"""Calibration has minutes for dozens of pictures of a large model, not thousands."""
LARGE_MODEL_MARGIN = 1.2
"""Of ranges that few pictures have seen."""

LEAST_PICTURES = 24
FREELY = 2_000_000_000
"""Products in all layers for one picture, up to which calibration takes its full number of pictures. The demo model has
1.7 billion; two steps of the emoji model and its decoder have 5.9, and take a third."""

TRIAL_PICTURES = 16
TRIAL_SEED = 40_000


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph that has been looked at: its layers and what calibration saw of them."""

    captured: CapturedGraph
    layers: tuple[Layer, ...]
    calibration: Calibration
    plan: PrecisionPlan
    # Made anew by `replace`: another plan rounds otherwise.
    _encoded: dict[tuple[str, Scheme], LayerCodes] = field(default_factory=dict, init=False, repr=False)

    @property
    def not_spelled(self) -> tuple[str, ...]:
        """Keys of layers that the plan has in 8 bits and the target has no form for."""
        wanted = (x.key for x in self.layers if self.plan.precision_of(x) == INT8)
        return tuple(key for key in wanted if key not in self.calibration.layers)

    def encoded(self, layer: Layer, scheme: Scheme) -> LayerCodes:
        """A calibrated layer rounded for `scheme`; once, since a search under a budget asks for it time and again."""
        key = layer.key, scheme
        if key not in self._encoded:
            statistics = self.calibration.layers[layer.key]
            self._encoded[key] = encode(layer, statistics, scheme, self.plan.rounding)
        return self._encoded[key]


@dataclass(frozen=True, eq=False)
class Int8Layers:
    """Layers in 8 bits, and the plan as it was carried out.

    Attributes:
        codes: one per layer in 8 bits, in the graph's order.
        left: keys of layers that stay in floating point.
        prepared: what was asked for, and what it was calibrated on.
        simulated_db: mean and worst PSNR, peak 2.0, of a few pictures drawn with them in PyTorch.
    """

    codes: tuple[LayerCodes, ...]
    left: tuple[str, ...]
    prepared: Prepared
    simulated_db: tuple[float, float]

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        plan = self.prepared.plan
        rounding = plan.rounding
        return {
            "int8": [c.layer.key for c in self.codes],
            "left_in_float": list(self.left),
            **plan_facts(plan, self.prepared.layers, self.prepared.not_spelled),
            "calibration_pictures": self.prepared.calibration.pictures,
            "margin": rounding.margin,
            "balance": rounding.balance,
            "least_squares": rounding.least_squares,
            "bias_correction": plan.bias_correction,
            "simulated_db": [round(number, 1) for number in self.simulated_db],
        }


def plan_facts(plan: PrecisionPlan, layers: Iterable[Layer], not_spelled: Iterable[str]) -> dict[str, Any]:
    """What of a plan the target decided: layers it has no 8-bit form for, and those that the plan does not name."""
    unnamed = [x.key for x in layers if x.key not in plan.layers] if plan.layers else []
    return {"not_spelled": list(not_spelled), "not_in_plan": unnamed}


def prepare(
    captured: CapturedGraph,
    plan: PrecisionPlan,
    progress: Callable[[str], None] = lambda _: None,
    operators: Mapping[Callable[..., Any], WeightedOperator] = OPERATORS,
    options: CalibrationOptions | None = None,
    roles: frozenset[str] | None = None,
) -> Prepared:
    """Find the layers and calibrate those that the plan has in 8 bits.

    Args:
        captured: after the rewrites.
        plan: which layers.
        progress: told about the stages.
        operators: besides the ordinary ones, a target's own.
        options: how much to look at; None: by the model's size.
        roles: the only ones that the target computes in 8 bits.

    Raises:
        CheckpointError: the plan names unknown layers, or a layer's input or output is not finite.
    """
    layers = find_layers(captured, operators)
    check_keys(plan, layers)
    large = sum(layer.weight.numel() for layer in layers) > LARGE_MODEL
    if large:
        plan = replace(
            plan,
            rounding=replace(plan.rounding, margin=max(plan.rounding.margin, LARGE_MODEL_MARGIN)),
            bias_correction=False,
        )
    chosen = [x for x in layers if plan.precision_of(x) == INT8 and (roles is None or x.role in roles)]
    options = options or (LARGE_MODEL_CALIBRATION if large else _affordable(captured, layers))
    return Prepared(captured, layers, calibrate(captured, chosen, options, progress), plan)


def _affordable(captured: CapturedGraph, layers: Iterable[Layer]) -> CalibrationOptions:
    """Fewer pictures of graphs that take long over one."""
    options = CalibrationOptions()
    nodes = {n.name: n for n in captured.program.graph.nodes}
    products = 0
    for layer in layers:
        for shape in (shape_of(nodes[name]) for name in layer.nodes):
            channels = shape[1 if layer.operator.kind == "conv" else -1]
            products += layer.weight.numel() * math.prod(shape) // channels
    share = min(1.0, FREELY / max(products, 1))
    every = options.pictures, options.gram_pictures
    pictures, multiplied = (min(n, max(round(share * n), LEAST_PICTURES)) for n in every)
    return replace(options, pictures=pictures, gram_pictures=multiplied)


def encode_layers(
    prepared: Prepared,
    scheme_of: Callable[[Layer], Scheme],
    progress: Callable[[str], None] = lambda _: None,
    in_float: Collection[str] = (),
) -> tuple[LayerCodes, ...]:
    """Round the calibrated layers, but for those in `in_float`, for a runtime that holds what `scheme_of` says."""
    found = []
    for layer in prepared.layers:
        if layer.key in prepared.calibration.layers and layer.key not in in_float:
            progress(f"round {layer.key}")
            found.append(prepared.encoded(layer, scheme_of(layer)))
    return tuple(found)


def finish(
    prepared: Prepared, codes: tuple[LayerCodes, ...], progress: Callable[[str], None] = lambda _: None
) -> Int8Layers:
    """Correct the biases of rounded layers, if the plan says so, and draw a few pictures with them."""
    if prepared.plan.bias_correction and codes:
        progress("correct biases")
        codes = correct_biases(prepared.captured, codes)
    inside = {c.layer.key for c in codes}
    left = tuple(layer.key for layer in prepared.layers if layer.key not in inside)
    progress("simulate")
    expected = simulate(prepared.captured, codes)
    return Int8Layers(codes, left, prepared, expected)


def simulate(
    captured: CapturedGraph, codes: tuple[LayerCodes, ...], pictures: int = TRIAL_PICTURES
) -> tuple[float, float]:
    """Mean and worst PSNR in dB of pictures drawn with the layers in 8 bits."""
    simulation = Simulation(captured)
    inputs = simulation.inputs(range(TRIAL_SEED, TRIAL_SEED + pictures))
    scores = psnr_db(simulation.pictures(inputs, codes), simulation.pictures(inputs))
    return float(scores.mean()), float(scores.min())
