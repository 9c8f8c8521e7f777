"""Rounding: against formulas written out in numpy, scikit-learn's k-means, and what a format can hold."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.cluster as cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.quantize.formats import FLOAT, LINEAR8, PALETTES, WeightFormat
from cmexport.quantize.rounding import rounded, weighted_means


def _weight(seed, *shape, scale=0.05):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_integers_per_channel_are_the_formula():
    weight = _weight(0, 6, 5, 3, 3) * torch.logspace(-1, 1, 6)[:, None, None, None]
    rows = weight.numpy().reshape(6, -1).astype(np.float64)
    scale = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype(np.float16).astype(np.float64)
    expected = np.round(rows / scale).clip(-127, 127) * scale
    np.testing.assert_allclose(rounded(weight, None, LINEAR8).numpy().reshape(6, -1), expected, rtol=1e-6)


def test_a_tiny_channel_keeps_a_scale_that_no_hardware_flushes():
    weight = _weight(1, 2, 40, scale=1e-4)
    found = rounded(weight, None, LINEAR8)
    tiny = float(torch.finfo(torch.half).tiny)
    assert torch.equal((found / tiny).round() * tiny, found)
    assert float((found - weight).abs().max()) <= tiny / 2 * 1.001


@pytest.mark.parametrize("format", [*PALETTES, WeightFormat("palette", 1)], ids=str)
@pytest.mark.parametrize("size", [(8, 40), (64, 16, 3, 3)])
def test_a_palette_has_no_more_values_than_its_bits_and_all_are_half_precision(format, size):
    found = rounded(_weight(2, *size), None, format)
    values = torch.unique(found)
    assert len(values) <= 2**format.bits
    assert torch.equal(values.half().float(), values)


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_a_palette_is_as_good_as_scikit_learns(bits):
    weight = _weight(3, 64, 256) + 0.02 * _weight(4, 64, 256).sign()
    known = cluster.KMeans(2**bits, n_init=1, random_state=0).fit(weight.reshape(-1, 1).numpy())
    ours = float(((rounded(weight, None, WeightFormat("palette", bits)) - weight) ** 2).sum())
    assert ours <= 1.06 * known.inertia_


def test_importance_moves_the_palette_to_what_matters():
    weight = _weight(5, 64, 64)
    importance = torch.where(weight > 0.05, 100.0, 0.01)
    plain, weighted = (rounded(weight, i, WeightFormat("palette", 3)) for i in (None, importance))
    error = [(importance * (w - weight) ** 2).sum() for w in (plain, weighted)]
    assert error[1] < 0.3 * error[0]


def test_a_histogram_stands_for_many_weights():
    weight = _weight(6, 128, 512)
    few = rounded(weight, None, WeightFormat("palette", 4))
    table = weighted_means(weight.flatten(), torch.ones(weight.numel()), 16)
    nearest = table[(weight.flatten()[:, None] - table).abs().argmin(dim=1)].reshape(weight.shape)
    errors = [float(((w - weight) ** 2).mean()) for w in (few, nearest)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(-40, 40), min_size=1, max_size=60),
    bits=st.sampled_from([1, 2, 3, 4]),
    important=st.booleans(),
)
def test_few_distinct_values_come_back_unchanged(values, bits, important):
    weight = torch.tensor([v / 64 for v in values]).reshape(1, -1)
    importance = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) if important else None
    found = rounded(weight, importance, WeightFormat("palette", bits))
    assert found.isfinite().all()
    if len(set(values)) <= 2**bits:
        assert torch.equal(found, weight)
    assert found.min() >= weight.min()
    assert found.max() <= weight.max()


def test_all_zero_weights_stay_zero():
    for format in (LINEAR8, *PALETTES, FLOAT):
        assert not rounded(torch.zeros(4, 64), torch.zeros(4, 64), format).any()


def test_stored_bits_count_scales_and_tables():
    assert LINEAR8.stored_bits((128, 64, 3, 3)) == 8 * 128 * 64 * 9 + 16 * 128
    assert WeightFormat("palette", 4).stored_bits((128, 64)) == 4 * 128 * 64 + 16 * 16
    assert FLOAT.stored_bits((3, 5)) == 16 * 15
