"""Simulated pictures against the graph run by torch's own interpreter with integer arithmetic written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.eight_bits import FEW, pictures, random, unet

from cmexport.model import SampleRequest
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS
from cmexport.quantize.int8 import encode_layers, prepare
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.quantize.simulation import Simulation, psnr_db

SEEDS = range(70, 73)


def mean_db(one, other):
    return float((10 * torch.log10(4.0 / ((one.double() - other.double()) ** 2).flatten(1).mean(1))).mean())


@pytest.fixture(scope="module")
def simulation(small):
    return Simulation(small)


def test_inputs_are_those_of_the_seeds(small, simulation):
    for inputs, seed in zip(simulation.inputs(SEEDS), SEEDS, strict=True):
        expected = small.examples(seed)
        assert set(inputs) == {"noise", "label"} == set(expected)
        assert all(torch.equal(inputs[n], expected[n]) for n in inputs)


def test_without_codes_the_pictures_are_the_graphs(small, simulation):
    drawn = simulation.pictures(simulation.inputs(SEEDS))
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, pictures(small, SEEDS))


@pytest.mark.parametrize("scheme", [INTEGER_PRODUCTS, CONVOLUTIONS])
def test_with_codes_the_pictures_are_those_of_whole_numbers(small, prepared, simulation, scheme):
    codes = encode_layers(prepared, lambda layer: scheme)
    inputs = simulation.inputs(SEEDS)
    exact = simulation.pictures(inputs)
    for chosen in (codes[:1], codes):
        expected = pictures(small, SEEDS, chosen)
        found = simulation.pictures(inputs, iter(chosen))
        rounding = mean_db(expected, exact)
        # Sums that lie between two codes fall to either side; their effect is far below that of rounding itself.
        assert mean_db(found, expected) > rounding + 10
        assert mean_db(found, exact) == pytest.approx(rounding, abs=0.7)
        assert 15 < rounding < 90


def test_every_step_of_a_shared_layer_is_rounded(small_two_steps):
    prepared = prepare(small_two_steps, PrecisionPlan(), options=FEW)
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    assert all(len(c.layer.nodes) == 2 for c in codes)
    simulation = Simulation(small_two_steps)
    found = simulation.pictures(simulation.inputs(SEEDS), codes)
    expected = pictures(small_two_steps, SEEDS, codes)
    exact = pictures(small_two_steps, SEEDS)
    assert mean_db(found, expected) > mean_db(expected, exact) + 8


def test_pictures_in_bytes_are_judged_like_pictures_in_floats(small, prepared):
    """Half a level of rounding is 57 dB or so: what 8-bit layers do beyond that shows in both alike."""
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    in_bytes = unet(SampleRequest(output="uint8"))
    of_bytes = prepare(in_bytes, PrecisionPlan(), options=FEW)
    same = encode_layers(of_bytes, lambda layer: INTEGER_PRODUCTS)
    found = []
    for graph, chosen in ((small, codes), (in_bytes, same)):
        simulation = Simulation(graph)
        inputs = simulation.inputs(SEEDS)
        found.append(float(psnr_db(simulation.pictures(inputs, chosen), simulation.pictures(inputs)).mean()))
    assert found[1] == pytest.approx(found[0], abs=1.0)


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-6, 1.0), st.integers(1, 4))
def test_psnr_is_its_formula(size, count):
    one, other = random(count, 3, 4, 4), random(count, 3, 4, 4, seed=1)
    scores = psnr_db(one + size * other, one)
    assert scores.shape == (count,)
    for i in range(count):
        mse = float((((one + size * other) - one)[i].double() ** 2).mean())
        assert float(scores[i]) == pytest.approx(10 * math.log10(4.0 / mse), abs=1e-3)


def test_equal_pictures_have_a_finite_score():
    assert float(psnr_db(random(1, 3, 2, 2), random(1, 3, 2, 2))[0]) > 200
