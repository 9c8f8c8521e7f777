"""Laws: what lies between two noises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmexport.signature import Choice, Normal, known
from cmexport.signature.laws import interpolate


def test_interpolation_stays_on_the_sphere_and_meets_its_ends():
    a, b = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(interpolate(a, b, 0.0), a)
    assert torch.allclose(interpolate(a, b, 1.0), b)
    # Equal norms stay equal, and the angle grows evenly: cos of half the angle by the half-angle formula.
    b = b * (a.norm() / b.norm())
    middle = interpolate(a, b, 0.5)
    assert float(middle.norm()) == pytest.approx(float(a.norm()), rel=1e-12)
    cosine = float((a * b).sum() / a.norm() ** 2)
    assert float((a * middle).sum() / a.norm() ** 2) == pytest.approx(math.sqrt((1 + cosine) / 2), rel=1e-12)
    assert torch.equal(interpolate(a, a, 0.3), a)
    assert interpolate(a.float(), b.float(), 0.3).dtype is torch.float32


def test_between_two_pictures_each_step_goes_its_own_way_and_classes_stay():
    later = known.renoise(2, (1, 3, 4, 4))
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((2, 1, 3, 4, 4)).astype(np.float32) for _ in range(2))
    found = later.between(first, second, 0.25)
    for step in range(2):
        wanted = interpolate(torch.from_numpy(first[step]), torch.from_numpy(second[step]), 0.25).numpy()
        assert np.array_equal(found[step], wanted)
    assert not np.allclose(found, Normal().between(first, second, 0.25))
    assert Choice(5).between(np.array([1]), np.array([4]), 0.75).tolist() == [1]
