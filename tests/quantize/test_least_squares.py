"""Rounding by least squares against plain rounding, all possible codes, and the textbook's elimination."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.eight_bits import random

from cmexport.quantize.least_squares import BLOCK, DAMPING, round_by_least_squares


def plain(matrix, step, top):
    return (matrix / step[:, None]).round().clamp(-top, top)


def error(codes, step, matrix, gram):
    """|(codes step - matrix) X|^2 in float64."""
    step = step[:, None] if step.dim() == 1 else step
    off = codes.double() * step.double() - matrix.double()
    return float((off @ gram.double() * off).sum())


def correlated(inputs, rank, seed, positions=400):
    x = random(positions, rank, seed=seed) @ random(rank, inputs, seed=seed + 1) + 0.3 * random(
        positions, inputs, seed=seed + 2
    )
    return x.t() @ x


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 200), st.sampled_from([1, 7, 127]))
def test_inputs_that_never_meet_are_rounded_plainly(seed, rows, inputs, top):
    matrix = random(rows, inputs, seed=seed)
    step = matrix.abs().amax(1) / top + 1e-6
    gram = torch.diag(random(inputs, seed=seed + 1).abs() + 0.01)
    codes = round_by_least_squares(matrix, gram, step, top)
    assert torch.equal(codes, plain(matrix, step, top))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 150), st.integers(1, 20), st.sampled_from([3, 15, 127]))
def test_outputs_are_never_further_off_than_with_plain_rounding(seed, inputs, rank, top):
    matrix, gram = random(8, inputs, seed=seed), correlated(inputs, rank, seed + 1)
    step = matrix.abs().amax(1) / top
    codes = round_by_least_squares(matrix, gram, step, top)
    assert torch.equal(codes, codes.round())
    assert float(codes.abs().max()) <= top
    rough = plain(matrix, step, top)
    # A greedy order can lose where there is next to nothing to gain: 1.16 times with 8 inputs of rank 12.
    assert error(codes, step, matrix, gram) <= 1.3 * error(rough, step, matrix, gram) + 1e-6


def test_correlated_inputs_gain_much():
    for seed in range(3):
        matrix, gram = random(32, 144, seed=seed), correlated(144, 12, 10 * seed + 1)
        step = matrix.abs().amax(1) / 127
        codes = round_by_least_squares(matrix, gram, step, 127)
        assert error(codes, step, matrix, gram) < 0.5 * error(plain(matrix, step, 127), step, matrix, gram)


def test_tiny_problems_come_near_the_best_of_all_codes():
    total = dict.fromkeys(("best", "found", "plain"), 0.0)
    candidates = torch.tensor(list(itertools.product(range(-3, 4), repeat=4)), dtype=torch.float32)
    for seed in range(40):
        matrix, gram = random(1, 4, seed=seed), correlated(4, 2, 7 * seed)
        step = matrix.abs().amax(1) / 3
        off = candidates.double() * step.double() - matrix.double()
        best = float((off @ gram.double() * off).sum(1).min())
        found = error(round_by_least_squares(matrix, gram, step, 3), step, matrix, gram)
        assert found >= best * (1 - 1e-6)
        total["best"] += best
        total["found"] += found
        total["plain"] += error(plain(matrix, step, 3), step, matrix, gram)
    assert total["found"] < 2.5 * total["best"]
    assert total["found"] < 0.8 * total["plain"]


def eliminated(matrix, gram, step, top):
    """Column by column with the whole inverse, as Hassibi and Stork have it, in float64 and without blocks."""
    left, step = matrix.double().clone(), step.double()
    damped = gram.double() + DAMPING * gram.double().diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    inverse = torch.linalg.inv(damped)
    codes = torch.zeros_like(left)
    for column in range(left.shape[1]):
        codes[:, column] = (left[:, column] / step).round().clamp(-top, top)
        off = (left[:, column] - codes[:, column] * step) / inverse[column, column]
        left -= off[:, None] * inverse[column]
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0  # done with; keeps the next division finite
    return codes


@pytest.mark.parametrize("inputs", [5, BLOCK, BLOCK + 1, 2 * BLOCK + 40])
def test_blocks_change_nothing(inputs):
    matrix, gram = random(6, inputs, seed=3), correlated(inputs, 30, 4, positions=1000)
    step = matrix.abs().amax(1) / 127
    codes = round_by_least_squares(matrix, gram, step, 127)
    expected = eliminated(matrix, gram, step, 127)
    # Single precision tips a code that lies halfway, and what follows it.
    assert float((codes - expected).abs().double().mean()) < 0.02
    assert error(codes, step, matrix, gram) == pytest.approx(error(expected, step, matrix, gram), rel=0.02)


def test_elements_may_have_steps_of_their_own():
    matrix, gram = random(4, 9, seed=1), correlated(9, 3, 2)
    rows = matrix.abs().amax(1) / 127
    same = round_by_least_squares(matrix, gram, rows[:, None].expand(4, 9), 127)
    assert torch.equal(same, round_by_least_squares(matrix, gram, rows, 127))
    steps = rows[:, None] * torch.linspace(1, 5, 9)
    codes = round_by_least_squares(matrix, gram, steps, 127)
    rough = (matrix / steps).round().clamp(-127, 127)
    assert error(codes, steps, matrix, gram) < error(rough, steps, matrix, gram)


def test_inputs_that_are_always_zero_harm_nobody():
    matrix, gram = random(5, 12, seed=1), correlated(12, 4, 2)
    gram[[2, 7]] = 0
    gram[:, [2, 7]] = 0
    step = matrix.abs().amax(1) / 127
    codes = round_by_least_squares(matrix, gram, step, 127)
    assert bool(torch.isfinite(codes).all())
    assert torch.equal(codes[:, [2, 7]], plain(matrix, step, 127)[:, [2, 7]])
    alive = [i for i in range(12) if i not in (2, 7)]
    apart = round_by_least_squares(matrix[:, alive], gram[alive][:, alive], step, 127)
    # The damping is a share of the mean diagonal, which the dead ones lower.
    kept = error(codes[:, alive], step, matrix[:, alive], gram[alive][:, alive])
    assert kept == pytest.approx(error(apart, step, matrix[:, alive], gram[alive][:, alive]), rel=0.3)
    nothing = round_by_least_squares(matrix, torch.zeros(12, 12), step, 127)
    assert torch.equal(nothing, plain(matrix, step, 127))


def test_what_was_given_stays_as_it_was():
    matrix, gram = random(5, 12, seed=1), correlated(12, 4, 2)
    before = matrix.clone(), gram.clone()
    round_by_least_squares(matrix, gram, matrix.abs().amax(1) / 127, 127)
    assert torch.equal(matrix, before[0])
    assert torch.equal(gram, before[1])
