"""Medians, quartiles, dropped rounds and orders, against numpy and against definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.statistics import ratios, shuffled_orders, steady_rounds, summarize

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30)


@given(times)
def test_quartiles_are_numpys(values):
    found = summarize(values)
    expected = np.quantile(values, [0.25, 0.5, 0.75])
    assert (found.lower, found.median, found.upper) == pytest.approx(tuple(expected))
    assert found.count == len(values)


def test_nothing_has_no_median():
    with pytest.raises(ValueError, match="nothing"):
        summarize([])


def test_rounds_with_a_slow_baseline_are_dropped():
    baseline = {0: 10.0, 1: 10.2, 2: 10.1, 3: 30.0, 4: 10.3, 5: 11.4}
    assert steady_rounds(baseline, slow=1.1) == {0, 1, 2, 4}


@given(times)
def test_a_quarter_of_the_rounds_always_survives(values):
    kept = steady_rounds(dict(enumerate(values)))
    assert 4 * len(kept) >= len(values)
    assert values.index(min(values)) in kept


def test_no_baseline_no_rounds():
    assert steady_rounds({}) == frozenset()


def test_ratios_pair_turns_of_the_same_round():
    baseline = {0: 10.0, 1: 20.0, 2: 99.0}
    late_starter = {1: 10.0, 2: 1.0}
    assert ratios(late_starter, baseline, frozenset({0, 1})) == [0.5]


def test_a_disturbance_of_both_leaves_the_ratio():
    baseline = {n: 10.0 * slowdown for n, slowdown in enumerate((1.0, 1.05, 1.02))}
    engine = {n: 8.0 * slowdown for n, slowdown in enumerate((1.0, 1.05, 1.02))}
    assert ratios(engine, baseline, steady_rounds(baseline)) == pytest.approx([0.8] * 3)


def test_every_engine_stands_equally_often_before_every_other():
    names = ("a", "b", "c", "d")
    orders = shuffled_orders(names, 6, seed=3)
    assert all(sorted(order) == sorted(names) for order in orders)
    for first in names:
        for second in names:
            if first != second:
                assert sum(o.index(first) < o.index(second) for o in orders) == 3


def test_orders_differ_and_repeat_with_the_seed():
    names = tuple("abcdefgh")
    assert shuffled_orders(names, 4, 1) == shuffled_orders(names, 4, 1)
    assert shuffled_orders(names, 4, 1) != shuffled_orders(names, 4, 2)
    assert len(set(shuffled_orders(names, 6, 1))) > 2
