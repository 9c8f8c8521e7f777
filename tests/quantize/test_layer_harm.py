"""The order in which layers go back to floating point, against errors and multiplications counted here."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from support.eight_bits import FEW, Watching, pictures

from cmexport.quantize import layer_harm
from cmexport.quantize.codes import INTEGER_PRODUCTS
from cmexport.quantize.int8 import TRIAL_SEED, encode_layers, prepare
from cmexport.quantize.layer_harm import float_order
from cmexport.quantize.precision_plan import FLOAT, PrecisionPlan


def worths(captured, prepared):
    """Squared error of the picture per multiplication, each layer alone; multiplications from shapes that were seen."""
    seeds = range(TRIAL_SEED, TRIAL_SEED + 2)
    exact = pictures(captured, seeds)
    watching = Watching(captured)
    watching.draw(captured.examples())
    found = {}
    for codes in encode_layers(prepared, lambda layer: INTEGER_PRODUCTS):
        error = float(((pictures(captured, seeds, [codes]) - exact) ** 2).mean())
        work = 0
        for node in codes.layer.nodes:
            out = watching.results[node].shape
            work += out[0] * out[2] * out[3] * codes.codes.numel()
        found[codes.layer.key] = error / work
    return found


@pytest.mark.parametrize("steps", [1, 2])
def test_first_come_those_with_most_error_for_least_work(small, small_two_steps, prepared, monkeypatch, steps):
    monkeypatch.setattr(layer_harm, "PICTURES", 2)
    captured = small if steps == 1 else small_two_steps
    looked_at = prepared if steps == 1 else prepare(captured, PrecisionPlan(), options=FEW)
    order = float_order(looked_at)
    expected = worths(captured, looked_at)
    assert set(order) == set(expected)
    assert len(order) == len(expected)
    # Sums that tip between two codes move an error by a few percent: neighbours may change places.
    values = [expected[key] for key in order]
    assert all(later < 1.25 * earlier for earlier, later in pairwise(values))
    assert values[0] == pytest.approx(max(values), rel=0.2)
    assert max(values) > 5 * min(values)


def test_only_layers_that_would_be_rounded_are_ordered(small):
    plan = PrecisionPlan({"input_blocks.1.0.in_layers.2": FLOAT})
    found = prepare(small, plan, options=FEW)
    told = []
    order = float_order(found, told.append)
    assert "input_blocks.1.0.in_layers.2" not in order
    assert set(order) == set(found.calibration.layers)
    assert {line.removeprefix("harm of ") for line in told} == set(order)


def test_the_graph_is_left_as_it_was(small, prepared):
    before = pictures(small, range(2))
    float_order(prepared)
    assert torch.equal(pictures(small, range(2)), before)
