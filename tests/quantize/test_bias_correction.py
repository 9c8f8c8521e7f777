"""After correction every layer's mean output is the float network's, seen by an interpreter of this file's own."""

from __future__ import annotations

import pytest
import torch
from support.eight_bits import FEW, Watching, pictures

from cmexport.quantize.bias_correction import correct_biases
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS
from cmexport.quantize.int8 import encode_layers, prepare
from cmexport.quantize.precision_plan import PrecisionPlan

PICTURES, SEED = 6, 800


def means(captured, codes):
    """By layer key: mean per output channel over the pictures and positions, in the graph with `codes`."""
    totals = {}
    layers = [c.layer for c in codes[0]]
    for picture in range(PICTURES):
        watching = Watching(captured, codes[1])
        watching.draw(captured.examples(SEED + picture))
        for layer in layers:
            for node in layer.nodes:
                mean = watching.results[node].double().mean(dim=(0, 2, 3)) / PICTURES
                totals[layer.key, node] = totals.get((layer.key, node), 0) + mean
    return totals


@pytest.mark.parametrize("scheme", [INTEGER_PRODUCTS, CONVOLUTIONS])
def test_channel_means_are_the_float_networks(small, prepared, scheme):
    codes = encode_layers(prepared, lambda layer: scheme)
    corrected = correct_biases(small, codes, PICTURES, SEED)
    assert [c.layer.key for c in corrected] == [c.layer.key for c in codes]
    exact, before, after = (means(small, (codes, which)) for which in ((), codes, corrected))
    for c in corrected:
        where = (c.layer.key, c.layer.nodes[0])
        rough, kept = ((m[where] - exact[where]).abs() for m in (before, after))
        if c.output is None:
            # A few sums tip between two codes in one of the two computations.
            assert float(kept.max()) <= 0.1 * float(rough.max()) + 1e-4
            assert float(kept.mean()) < 0.25 * float(rough.mean()) + 1e-5
        else:
            # Outputs that are rounded themselves keep a rounding error of their mean, and few are cut off at an end.
            assert float((kept <= 0.25 * c.output.step).double().mean()) > 0.8
            assert float(kept.mean()) < 0.5 * float(rough.mean())
        assert bool((c.bias != 0).any())
    assert all(bool((c.bias == 0).all()) for c in codes)


def test_codes_stay_and_only_biases_change(small, prepared):
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    for before, after in zip(codes, correct_biases(small, codes, 2, SEED), strict=True):
        assert after.codes is before.codes
        assert after.step is before.step
        assert after.zero_point is before.zero_point


def test_layers_in_float_are_left_alone(small, prepared):
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)[3:5]
    corrected = correct_biases(small, codes, PICTURES, SEED)
    assert len(corrected) == 2
    exact, after = (means(small, (codes, which)) for which in ((), corrected))
    for where, mean in exact.items():
        torch.testing.assert_close(after[where], mean, rtol=1e-3, atol=1e-4)


def test_layers_of_several_steps_keep_their_biases(small_two_steps):
    prepared = prepare(small_two_steps, PrecisionPlan(), options=FEW)
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    corrected = correct_biases(small_two_steps, codes, 2, SEED)
    assert all(len(c.layer.nodes) == 2 for c in codes)
    assert all(bool((c.bias == 0).all()) for c in corrected)
    seeds = range(2)
    assert torch.equal(pictures(small_two_steps, seeds, codes), pictures(small_two_steps, seeds, corrected))


def test_it_brings_the_picture_closer(small, prepared):
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    seeds = range(300, 312)
    exact = pictures(small, seeds)
    both = (codes, correct_biases(small, codes, 16, SEED))
    rough, corrected = (float(((pictures(small, seeds, c) - exact) ** 2).mean()) for c in both)
    assert corrected < 1.02 * rough
