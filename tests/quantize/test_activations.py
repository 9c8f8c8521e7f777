"""Ranges of whole activations, on a small network."""

from __future__ import annotations

import torch

from cmexport.graph.tracing import to_module
from cmexport.quantize.activations import plan_activations, weighted_inputs


def test_the_worst_activations_stay_in_floating_point_when_the_picture_must_be_better(small):
    plain, strict = (plan_activations(small, db, pictures=4) for db in (30.0, 60.0))
    assert not plain.left
    assert strict.left
    assert strict.predicted_db >= 60.0 > plain.predicted_db
    assert len(strict.ranges) + len(strict.left) == len(plain.ranges)


def test_ranges_cover_what_was_seen_and_zero_has_a_code(small):
    for chosen in plan_activations(small, 30.0, pictures=4).ranges:
        assert 0 <= chosen.zero_point <= 255
        assert float(torch.tensor(chosen.scale).half()) == chosen.scale > 0


def test_every_weighted_input_is_found_once(small):
    names = weighted_inputs(to_module(small.program))
    assert len(names) == len(set(names)) > 10


def test_two_steps_have_ranges_of_their_own(small, small_two_steps):
    names, twice = (weighted_inputs(to_module(g.program)) for g in (small, small_two_steps))
    assert len(twice) == 2 * len(names)
    assert len(plan_activations(small_two_steps, 30.0, pictures=2).ranges) == len(twice)
