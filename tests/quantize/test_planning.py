"""Choosing formats: against every possible choice of a small problem, and the budget's own terms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.quantize.formats import FLOAT, LINEAR8, PALETTES
from cmexport.quantize.planning import Candidate, candidates, choose
from cmexport.quantize.weights import GraphWeight

_OPTION = st.lists(
    st.tuples(st.integers(1, 60), st.floats(1e-6, 1.0)), min_size=1, max_size=4, unique_by=lambda pair: pair[0]
)


def _useful(pairs):
    """As `candidates` gives them: more bits, less error."""
    found = []
    for bits, error in sorted(pairs):
        if not found or error < found[-1].error:
            found.append(Candidate(FLOAT, bits, error))
    return tuple(found)


@settings(max_examples=200, deadline=None)
@given(options=st.lists(_OPTION, min_size=1, max_size=5), spare=st.integers(0, 120))
def test_the_budget_holds_and_no_relaxed_choice_is_better(options, spare):
    options = [_useful(pairs) for pairs in options]
    budget = sum(o[0].bits for o in options) + spare
    plan = choose(options, 1, budget)
    assert sum(c.bits for c in plan.chosen) <= budget
    assert all(c in o for c, o in zip(plan.chosen, options, strict=True))
    error = sum(c.error for c in plan.chosen)
    best = min(
        sum(c.error for c in combination)
        for combination in itertools.product(*options)
        if sum(c.bits for c in combination) <= budget
    )
    # Greedy upgrades can miss the optimum by what one weight's last upgrade is worth.
    assert error <= best + max(o[0].error - o[-1].error for o in options) + 1e-12


def test_more_bits_never_make_it_worse():
    generator = torch.Generator().manual_seed(0)
    options = []
    for _ in range(12):
        errors = torch.rand(4, generator=generator).sort(descending=True).values.tolist()
        options.append(_useful(list(zip((200, 300, 400, 800), errors, strict=True))))
    found = [choose(options, 1200, bits).predicted_db for bits in (2, 2.5, 3, 4, 6, 8)]
    assert found == sorted(found)


def test_a_goal_stops_the_upgrades():
    options = [_useful([(2, 1e-2), (4, 1e-3), (8, 1e-5)])] * 3
    assert choose(options, 3, math.inf, 27.0).mean_bits == 4.0
    assert choose(options, 3, math.inf).mean_bits == 8.0
    assert choose(options, 3, math.inf, 10.0).mean_bits == 2.0


def test_candidates_are_sorted_and_useful_and_predict_with_the_sensitivity():
    weight = GraphWeight(("w",), 0.05 * torch.randn(32, 64, generator=torch.Generator().manual_seed(1)))
    found = candidates(weight, torch.full((32, 64), 2.0), (FLOAT, LINEAR8, *PALETTES))
    assert [c.bits for c in found] == sorted(c.bits for c in found)
    assert [c.error for c in found] == sorted((c.error for c in found), reverse=True)
    plain = candidates(weight, None, (LINEAR8,))
    assert found[-2].error == pytest.approx(2 * plain[0].error)


def test_errors_predicted_from_some_channels_are_near_those_of_all():
    generator = torch.Generator().manual_seed(2)
    # Channels differ, as those of trained layers do.
    value = torch.randn(2048, 96, generator=generator) * torch.rand(2048, 1, generator=generator).exp()
    sensitivity = torch.rand(2048, 96, generator=generator) ** 4
    weight, formats = GraphWeight(("w",), value), (FLOAT, LINEAR8, *PALETTES)
    whole = candidates(weight, sensitivity, formats)
    some = candidates(weight, sensitivity.bfloat16(), formats, looked_at=256 * 96)
    assert [(c.format, c.bits) for c in some] == [(c.format, c.bits) for c in whole]
    assert [c.error for c in some] == pytest.approx([c.error for c in whole], rel=0.25)
    assert candidates(weight, sensitivity, formats, looked_at=2048 * 96) == whole
