"""Picture statistics against formulas written out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError
from cmexport.parity.metrics import as_bytes, channels_last, compare, count_non_finite, psnr_db
from cmexport.sampling.samplers import to_bytes


def pictures(count: int = 3, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("error", [0.5, 1e-2, 1e-4])
def test_constant_error_has_the_textbook_psnr(error: float) -> None:
    reference = np.zeros((2, 3, 4, 4), dtype=np.float64)
    found = compare(reference, reference + error)
    assert found.mean_db == pytest.approx(20 * math.log10(2 / error), abs=1e-9)
    assert found.min_db == pytest.approx(found.mean_db)
    assert found.max_abs == pytest.approx(error)


def test_error_of_the_whole_range_is_zero_db() -> None:
    assert compare(-np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2))).mean_db == pytest.approx(0.0)
    assert psnr_db(4.0) == 0.0
    assert psnr_db(0.0) == math.inf


@settings(max_examples=30, deadline=None)
@given(db=st.floats(20, 140), seed=st.integers(0, 2**32 - 1))
def test_noise_of_known_power_is_measured_at_its_db(db: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-1, 1, (4, 3, 32, 32))
    noise = rng.standard_normal(reference.shape) * 2 * 10 ** (-db / 20)
    # 3072 numbers a picture: the mean square scatters by sqrt(2/3072) = 2.6 %, 0.11 dB; 5 sigma over 4 pictures.
    assert compare(reference, reference + noise).mean_db == pytest.approx(db, abs=0.35)


def test_mean_is_over_pictures_in_db_and_minimum_is_the_worst_picture() -> None:
    reference = np.zeros((3, 1, 2, 2))
    candidate = reference + np.array([1e-1, 1e-3, 1e-2]).reshape(3, 1, 1, 1)
    found = compare(reference, candidate)
    each = [20 * math.log10(2 / e) for e in (1e-1, 1e-3, 1e-2)]
    assert found.mean_db == pytest.approx(sum(each) / 3)
    assert found.min_db == pytest.approx(min(each))
    assert found.worst_picture == 0


def test_difference_is_taken_in_float64() -> None:
    reference = np.full((1, 1, 1, 2), 1.0, dtype=np.float32)
    candidate = np.nextafter(reference, np.float32(2))
    assert compare(reference, candidate).max_abs == 2.0**-23
    assert compare(reference, candidate).mean_db == pytest.approx(20 * math.log10(2 * 2**23))


def test_identical_pictures_have_no_figure_and_pass_every_gate() -> None:
    found = compare(pictures(), pictures())
    assert found.identical
    assert (found.identical_pictures, found.mean_db, found.min_db, found.worst_picture) == (3, None, None, None)
    assert (found.max_abs, found.off_by_1) == (0.0, 0.0)
    assert found.passes(1e9)


@settings(max_examples=50, deadline=None)
@given(errors=st.lists(st.sampled_from([0.0, 1e-6, 1e-4, 1e-2]), min_size=2, max_size=6))
def test_with_an_identical_picture_the_mean_is_a_lower_bound(errors: list[float]) -> None:
    reference = np.zeros((len(errors), 1, 2, 2))
    found = compare(reference, reference + np.array(errors).reshape(-1, 1, 1, 1))
    if not any(errors):
        assert found.identical
        return
    assert found.mean_db is not None
    assert found.min_db is not None
    if 0.0 in errors:
        assert found.mean_db == pytest.approx(10 * math.log10(4 / (sum(e * e for e in errors) / len(errors))))
        # An identical picture counted at 400 dB can only raise the mean above what we report.
        generous = sum(20 * math.log10(2 / e) if e else 400.0 for e in errors) / len(errors)
        assert found.mean_db <= generous + 1e-9
        assert found.mean_db >= found.min_db
    assert found.identical_pictures == errors.count(0.0)
    assert not found.identical


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
def test_one_number_that_is_not_finite_fails_every_gate(bad: float, side: str) -> None:
    reference, candidate = pictures(), pictures()
    if side != "candidate":
        reference[1, 2, 3, 4] = bad
    if side != "reference":
        candidate[1, 2, 3, 4] = bad
    found = compare(reference, candidate)
    assert found.non_finite == (2 if side == "both" else 1)
    assert not found.identical
    assert not found.passes(-1e9)
    assert found.mean_db is None
    assert found.worst_picture == 1
    assert found.max_abs == 0.0
    assert found.off_by_4 == 1 / reference.size


def test_a_count_of_non_finite_numbers_outweighs_any_figure() -> None:
    found = compare(pictures(), pictures() + np.float32(1e-6))
    assert found.passes(60)
    assert not dataclasses.replace(found, non_finite=1).passes(60)


def test_count_non_finite() -> None:
    assert count_non_finite(np.array([1.0, np.nan, np.inf, -np.inf])) == 3
    assert count_non_finite(np.zeros((1, 2, 2, 3), dtype=np.uint8)) == 0


@pytest.mark.parametrize(
    ("levels", "shares"), [(1, (0.25, 0, 0)), (2, (0.25, 0.25, 0)), (3, (0.25, 0.25, 0)), (4, (0.25,) * 3)]
)
def test_shares_of_bytes_off(levels: int, shares: tuple[float, float, float]) -> None:
    reference = np.full((1, 1, 2, 2), 100 / 127.5 - 1, dtype=np.float32)
    candidate = reference.copy()
    candidate[0, 0, 0, 0] += levels / 127.5
    found = compare(reference, candidate)
    assert (found.off_by_1, found.off_by_2, found.off_by_4) == shares


def test_bytes_beyond_white_are_clipped_before_they_are_compared() -> None:
    reference = np.full((1, 1, 2, 2), 1.0, dtype=np.float32)
    found = compare(reference, reference + 0.5)
    assert (found.off_by_1, found.max_abs) == (0.0, 0.5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_as_bytes_is_the_graphs_own_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1.1, 1.1, (2, 3, 4, 5)).astype(np.float32)
    # Ties, where arithmetic in another precision would fall to the other side.
    values.flat[:20] = (rng.integers(0, 255, 20) + 0.5) / 127.5 - 1
    assert np.array_equal(as_bytes(values), to_bytes(torch.from_numpy(values)).numpy())


def test_every_byte_survives_the_way_to_float_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = channels_last(every).transpose(0, 3, 1, 2)
    assert (floats.min(), floats.max()) == (-1.0, 1.0)
    assert np.array_equal(as_bytes(floats), every)
    assert np.array_equal(as_bytes(floats.astype(np.float32)), every)


def test_two_byte_pictures_one_level_apart() -> None:
    reference = np.full((1, 4, 4, 3), 100, dtype=np.uint8)
    candidate = reference.copy()
    candidate[0, 0, 0, 0] = 101
    found = compare(reference, candidate)
    assert found.mean_db == pytest.approx(10 * math.log10(4 / ((2 / 255) ** 2 / 48)))
    assert found.max_abs == pytest.approx(2 / 255)
    assert found.off_by_1 == 1 / 48


def test_bytes_against_floats_are_compared_as_bytes_in_either_order() -> None:
    floats = pictures(2, 4)
    assert compare(floats, as_bytes(floats)).identical
    assert compare(as_bytes(floats), floats).identical
    nudged = as_bytes(floats)
    nudged[1, 0, 0, 0] ^= 1
    assert compare(floats, nudged).off_by_1 == 1 / floats.size
    floats[0, 0, 0, 0] = np.nan
    assert not compare(floats, nudged).passes(0)


@pytest.mark.parametrize(
    "other", [np.zeros((3, 3, 4, 4)), np.zeros((2, 3, 8, 8)), np.zeros((3, 8, 8, 1), np.uint8), np.zeros((3, 3))]
)
def test_pictures_of_another_model_are_refused(other: np.ndarray) -> None:
    with pytest.raises(CheckpointError, match="pictures"):
        compare(pictures(), other)


def test_no_pictures_are_no_proof() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        compare(pictures()[:0], pictures()[:0])
