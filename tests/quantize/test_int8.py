"""From a plan to layers in 8 bits: which ones, rounded how, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.eight_bits import FEW, pictures

from cmexport.errors import CheckpointError
from cmexport.quantize import int8
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS, RoundingOptions
from cmexport.quantize.int8 import TRIAL_SEED, encode_layers, finish, prepare, simulate
from cmexport.quantize.layers import find_layers
from cmexport.quantize.precision_plan import FLOAT, INT8, PrecisionPlan

ONE = CalibrationOptions(1, 0)


def integer(layer):
    return INTEGER_PRODUCTS


def test_the_default_is_by_role(small, prepared):
    roles = {layer.key: layer.role for layer in find_layers(small)}
    assert set(roles.values()) == {"spatial", "pointwise"}
    assert set(prepared.calibration.layers) == {k for k, role in roles.items() if role == "spatial"}
    assert prepared.calibration.pictures == FEW.pictures
    assert tuple(layer.key for layer in prepared.layers) == tuple(roles)


def test_a_plan_and_a_target_say_otherwise(small):
    plan = PrecisionPlan({"input_blocks.1.0.in_layers.2": FLOAT, "input_blocks.3.1.qkv": INT8})
    found = prepare(small, plan, options=ONE)
    assert "input_blocks.1.0.in_layers.2" not in found.calibration.layers
    assert "input_blocks.3.1.qkv" in found.calibration.layers
    only = prepare(small, plan, options=ONE, roles=frozenset({"pointwise"}))
    assert set(only.calibration.layers) == {"input_blocks.3.1.qkv"}
    assert set(only.not_spelled) == set(found.calibration.layers) - set(only.calibration.layers)


def test_unknown_layers_are_refused_before_any_work(small, monkeypatch):
    monkeypatch.setattr(int8, "calibrate", None)
    with pytest.raises(CheckpointError, match=r"no layer input_blocks\.1\.0\.in_layer; did you mean"):
        prepare(small, PrecisionPlan({"input_blocks.1.0.in_layer": INT8}))


def test_layers_can_be_left_in_float_after_calibration(prepared):
    every = encode_layers(prepared, integer)
    keys = [c.layer.key for c in every]
    assert keys == [layer.key for layer in prepared.layers if layer.key in prepared.calibration.layers]
    told = []
    fewer = encode_layers(prepared, integer, told.append, keys[1:3])
    assert [c.layer.key for c in fewer] == [keys[0], *keys[3:]]
    assert told == [f"round {c.layer.key}" for c in fewer]
    mixed = encode_layers(prepared, lambda layer: CONVOLUTIONS if layer.key == keys[0] else INTEGER_PRODUCTS)
    assert [c.output is not None for c in mixed] == [True] + [False] * (len(keys) - 1)


def test_the_account_is_that_of_what_was_done(small, prepared):
    codes = encode_layers(prepared, integer, in_float=("input_blocks.1.0.in_layers.2",))
    found = finish(prepared, codes)
    facts = found.facts()
    assert facts["int8"] == [c.layer.key for c in found.codes]
    assert set(facts["int8"]) | set(facts["left_in_float"]) == {layer.key for layer in prepared.layers}
    assert not set(facts["int8"]) & set(facts["left_in_float"])
    assert facts["calibration_pictures"] == FEW.pictures
    assert (facts["margin"], facts["balance"], facts["least_squares"], facts["bias_correction"]) == (1, 1, True, True)
    seeds = range(TRIAL_SEED, TRIAL_SEED + 16)
    error = (pictures(small, seeds, found.codes) - pictures(small, seeds)) ** 2
    scores = 10 * torch.log10(4.0 / error.flatten(1).mean(1))
    assert found.simulated_db[0] == pytest.approx(float(scores.mean()), abs=0.5)
    assert found.simulated_db[1] == pytest.approx(float(scores.min()), abs=1.5)
    assert facts["simulated_db"] == [round(number, 1) for number in found.simulated_db]
    assert found.simulated_db[1] < found.simulated_db[0]


@pytest.mark.parametrize("corrected", [True, False])
def test_biases_are_corrected_where_the_plan_says_so(small, prepared, corrected):
    asked = replace(prepared, plan=PrecisionPlan(bias_correction=corrected))
    found = finish(asked, encode_layers(asked, integer))
    assert all(bool((c.bias != 0).any()) == corrected for c in found.codes)
    assert found.facts()["bias_correction"] is corrected


def test_rounding_is_the_plans(small, prepared):
    narrow = encode_layers(prepared, integer)
    wide = encode_layers(replace(prepared, plan=PrecisionPlan(rounding=RoundingOptions(margin=2.0))), integer)
    for one, two in zip(narrow, wide, strict=True):
        torch.testing.assert_close(two.step, 2 * one.step)
    plain = encode_layers(replace(prepared, plan=PrecisionPlan(rounding=RoundingOptions(least_squares=False))), integer)
    assert any(not torch.equal(one.codes, two.codes) for one, two in zip(narrow, plain, strict=True))


def test_without_layers_nothing_is_corrected_and_the_picture_is_exact(prepared):
    found = finish(prepared, ())
    assert found.codes == ()
    assert found.facts()["int8"] == []
    assert found.simulated_db[1] > 150


def test_a_large_model_is_looked_at_less_with_wider_ranges(small, monkeypatch):
    assert int8.LARGE_MODEL == 100_000_000
    monkeypatch.setattr(int8, "LARGE_MODEL", 1000)
    monkeypatch.setattr(int8, "LARGE_MODEL_CALIBRATION", CalibrationOptions(2, 0))
    found = prepare(small, PrecisionPlan())
    assert found.calibration.pictures == 2
    assert all(s.gram is None for s in found.calibration.layers.values())
    assert found.plan.rounding.margin == int8.LARGE_MODEL_MARGIN == 1.2
    assert found.plan.bias_correction is False
    assert prepare(small, PrecisionPlan(rounding=RoundingOptions(margin=3.0))).plan.rounding.margin == 3.0
    assert prepare(small, PrecisionPlan(), options=ONE).calibration.pictures == 1


def test_a_graph_that_takes_long_over_a_picture_is_looked_at_less(small, monkeypatch):
    looked = []
    monkeypatch.setattr(int8, "calibrate", lambda captured, layers, options, progress: looked.append(options))
    for free in (10**12, 1000):
        monkeypatch.setattr(int8, "FREELY", free)
        prepare(small, PrecisionPlan())
    full, less = looked
    assert full == CalibrationOptions()
    assert (less.pictures, less.gram_pictures) == (int8.LEAST_PICTURES,) * 2


def test_more_codes_cost_more(small, prepared):
    codes = encode_layers(prepared, integer)
    all_of_them, one = simulate(small, codes, 4), simulate(small, codes[:1], 4)
    assert one[0] > all_of_them[0] + 1
    assert one[1] <= one[0]
