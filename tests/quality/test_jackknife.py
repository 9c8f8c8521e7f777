"""Intervals: where theory knows them, and how often they hold the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.quality.distribution import measure
from cmexport.quality.frechet import Gaussian
from cmexport.quality.jackknife import BLOCKS, blocks_of, jackknife


@given(st.integers(2 * BLOCKS, 100_000))
def test_blocks_hold_every_picture_once_and_are_of_one_size(count):
    blocks = blocks_of(count)
    assert len(blocks) == BLOCKS
    assert blocks[0].start == 0
    assert blocks[-1].stop == count
    assert all(a.stop == b.start for a, b in itertools.pairwise(blocks))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


@pytest.mark.parametrize("count", [-1, 0, 1, 2 * BLOCKS - 1])
def test_too_few_pictures_have_no_interval(count):
    with pytest.raises(ValueError, match="at least 40"):
        blocks_of(count)
    with pytest.raises(ValueError, match="20 blocks"):
        jackknife(0.0, [0.0] * max(count % BLOCKS, 1))


def test_of_a_mean_it_is_the_textbooks_interval():
    values = np.random.default_rng(0).standard_normal(40 * BLOCKS)
    found = jackknife(values.mean(), [np.delete(values, list(b)).mean() for b in blocks_of(len(values))])
    error = values.reshape(BLOCKS, -1).mean(axis=1).std(ddof=1) / math.sqrt(BLOCKS)
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    # Student's t at 97.5 %, 19 degrees of freedom, from any table.
    assert found.high - found.value == pytest.approx(2.093 * error, rel=1e-4)
    assert found.value - found.low == pytest.approx(2.093 * error, rel=1e-4)


def test_no_interval_leaves_what_the_figure_can_be():
    wide = [0.0, 2.0] * (BLOCKS // 2)
    found = jackknife(1.0, wide, 0.0)
    assert found.low == 0.0
    assert found.high > 2.0
    assert jackknife(1.0, wide).low < 0.0


@pytest.fixture(scope="module")
def repeated():
    """`measure` on 120 independent sets of 400 pictures of 8 features: a candidate that is off by a little."""
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((8, 8)) / 3.0
    real = Gaussian(np.full(8, 0.1), mix.T @ mix * 1.2)
    found = []
    for _ in range(120):
        reference = rng.standard_normal((400, 8)) @ mix
        candidate = 1.05 * reference + 0.05 * rng.standard_normal((400, 8)) + 0.05
        found.append(measure(reference.astype(np.float32), candidate.astype(np.float32), real))
    return found


@pytest.mark.parametrize("name", ["artifact_reference", "artifact_real", "reference_real", "difference"])
def test_95_of_100_intervals_hold_the_truth(repeated, name):
    found = [getattr(r, name) for r in repeated]
    truth = np.mean([f.value for f in found])
    covered = np.mean([f.low <= truth <= f.high for f in found])
    # 120 draws of a 95 % event lie in this range but once in a thousand.
    assert 0.88 <= covered <= 1.0
    spread = np.std([f.value for f in found])
    assert np.mean([f.standard_error for f in found]) == pytest.approx(spread, rel=0.25)


def test_the_difference_is_surer_than_what_it_is_made_of(repeated):
    for r in repeated[:10]:
        assert r.difference.standard_error < min(r.artifact_real.standard_error, r.reference_real.standard_error)
