"""Precisions on the trained demo model: bits kept to, pictures kept, the given graph left alone."""

from __future__ import annotations

import pytest
import torch

from cmexport.graph.tracing import to_module
from cmexport.quantize import compression
from cmexport.quantize.activations import plan_activations, weighted_inputs, with_activations
from cmexport.quantize.compression import RECIPES, compress
from cmexport.quantize.sensitivity import weight_sensitivity
from cmexport.quantize.weights import find_weights


@pytest.fixture(scope="module")
def sensitivities():
    """`weight_sensitivity`, once for a graph: 4 s on the demo's, and it does not depend on the precision asked for."""
    known = {}

    def once(captured, weights, samples):
        key = (id(captured), samples)
        if key not in known:
            # The graph is kept with it, so that its id is not given to another one.
            known[key] = captured, weight_sensitivity(captured, weights, samples)
        return known[key][1]

    return once


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch, sensitivities):
    monkeypatch.setattr(compression, "SAMPLES", 8)
    monkeypatch.setattr(compression, "_TRIAL_PICTURES", 6)
    monkeypatch.setattr(compression, "weight_sensitivity", sensitivities)


@pytest.mark.parametrize(("precision", "least_db"), [("w8", 57.0), ("w6", 48.0), ("w4", 38.0)])
def test_weights_keep_to_their_bits_and_the_picture(demo, psnr, precision, least_db):
    before = [w.value.clone() for w in find_weights(to_module(demo.program))]
    found = compress(demo, precision)
    assert found.weights.mean_bits <= RECIPES[precision].mean_bits
    assert psnr(found.captured) >= least_db
    assert abs(found.weights.predicted_db - psnr(found.captured)) < 3.0
    after = find_weights(to_module(demo.program))
    assert all(torch.equal(old, new.value) for old, new in zip(before, after, strict=True))
    assert sum(found.facts()["weights"].values()) == len(before)


def test_a_budget_is_met_with_fewer_bits_than_a_tighter_one(demo, psnr):
    loose, tight = compress(demo, "mixed", 42.0), compress(demo, "mixed", 50.0)
    assert psnr(loose.captured) >= 41.5
    assert psnr(tight.captured) >= 49.5
    assert loose.weights.mean_bits < tight.weights.mean_bits < 7.0
    assert loose.facts()["budget_db"] == 42.0


def test_activations_in_eight_bits_keep_the_picture(demo, psnr):
    found = compress(demo, "int8")
    assert psnr(found.captured) >= 44.0
    targets = [str(n.target) for n in to_module(found.captured.program).graph.nodes]
    pairs = sum("quantize_per_tensor" in t and "dequantize" not in t for t in targets)
    assert pairs == len(found.activations.ranges) == sum("dequantize_per_tensor" in t for t in targets)
    assert found.activations.left == ()
    assert found.facts()["activations"]["uint8"] == pairs


def test_the_worst_activations_stay_in_floating_point_when_the_picture_must_be_better(demo):
    plain, strict = (plan_activations(demo, db, pictures=4) for db in (30.0, 60.0))
    assert not plain.left
    assert strict.left
    assert strict.predicted_db >= 60.0 > plain.predicted_db
    assert len(strict.ranges) + len(strict.left) == len(plain.ranges)


def test_ranges_cover_what_was_seen_and_zero_has_a_code(demo):
    for chosen in plan_activations(demo, 30.0, pictures=4).ranges:
        assert 0 <= chosen.zero_point <= 255
        assert float(torch.tensor(chosen.scale).half()) == chosen.scale > 0


def test_every_weighted_input_is_found_once(demo):
    names = weighted_inputs(to_module(demo.program))
    assert len(names) == len(set(names))
    # 76 convolutions; the first reads the noise itself, which stays as it is.
    assert 60 < len(names) <= 75


def test_two_steps_have_ranges_of_their_own(two_steps):
    plan = plan_activations(two_steps, 30.0, pictures=2)
    assert len(plan.ranges) == 2 * len(weighted_inputs(to_module(two_steps.program))) // 2
    rounded = with_activations(two_steps, plan)
    assert rounded.signature == two_steps.signature
