"""The Fréchet distance where it has a closed form, and sums that add up."""

from __future__ import annotations

import numpy as np
import pytest

from cmexport.quality.frechet import Gaussian, Moments, add_up, frechet_distance


def random_covariance(rng, size):
    root = rng.standard_normal((size, size))
    return root @ root.T


def test_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    a, b = rng.uniform(0.1, 3.0, (2, 6))
    m, n = rng.standard_normal((2, 6))
    first, second = (Gaussian(v, rotation @ np.diag(s) @ rotation.T) for v, s in ((m, a), (n, b)))
    expected = ((m - n) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_two_by_two_covariances_that_do_not_commute():
    rng = np.random.default_rng(1)
    a, b = random_covariance(rng, 2), random_covariance(rng, 2)
    # tr M^(1/2) of a 2 x 2 matrix is sqrt(tr M + 2 sqrt(det M)).
    root = np.sqrt(np.trace(a @ b) + 2.0 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    got = frechet_distance(Gaussian(np.zeros(2), a), Gaussian(np.array([3.0, 4.0]), b))
    assert got == pytest.approx(25.0 + np.trace(a) + np.trace(b) - 2.0 * root, rel=1e-12)


def test_it_is_symmetric_and_zero_for_equals_even_when_singular():
    rng = np.random.default_rng(2)
    few = Moments.of(rng.standard_normal((5, 16))).gaussian
    many = Gaussian(rng.standard_normal(16), random_covariance(rng, 16))
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(few, many) == pytest.approx(frechet_distance(many, few), rel=1e-9)
    assert frechet_distance(few, many) > 1.0


def test_parts_add_up_to_numpys_mean_and_covariance():
    features = np.random.default_rng(3).standard_normal((50, 7)).astype(np.float32) + 4.0
    whole = add_up(Moments.of(part) for part in np.split(features, [1, 20, 33])).gaussian
    np.testing.assert_allclose(whole.mean, features.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(features.astype(np.float64).T), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="2 pictures"):
        _ = Moments.of(features[:1]).gaussian
