"""Laws: what lies between two noises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cmexport.errors import CheckpointError
from cmexport.signature import Choice, Input, Normal, Range, Tokens, known
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


def test_numbers_lie_in_their_range_and_out_of_it_are_refused():
    law = Range(1.0, 9.0)
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([float(law.draw((), generator, i)) for i in range(200)])
    assert 1.0 <= drawn.min() < 1.5
    assert 8.5 < drawn.max() <= 9.0
    guidance = Input("guidance", (1,), law=law, layout=("N",))
    guidance.check(np.array([1.0, 9.0], np.float32))
    with pytest.raises(CheckpointError, match="'guidance' holds a number outside 1 to 9"):
        guidance.check(np.array([9.5], np.float32))
    assert law.between(np.array([1.0]), np.array([9.0]), 0.25).tolist() == [3.0]


def test_a_sentence_begins_and_ends_and_fills_its_row():
    law = Tokens(50, 48, 49)
    rows = np.stack([law.draw((7,), torch.Generator().manual_seed(i), i) for i in range(100)])
    assert (rows[:, 0] == 48).all()
    assert (rows[:, -1] == 49).all()
    assert rows.min() >= 0
    assert rows.max() < 50
    assert len({tuple(row) for row in rows}) > 50
    real = Tokens(50, 48, 49, 0, ((3, 4), tuple(range(20))))
    drawn = [real.draw((7,), torch.Generator(), i).tolist() for i in range(3)]
    assert drawn == [[48, 3, 4, 49, 0, 0, 0], [48, 0, 1, 2, 3, 4, 49], [48, 3, 4, 49, 0, 0, 0]]
    with pytest.raises(ValueError, match="without anything"):
        Tokens(50, 48, 49, 0, ((50,),))
    tokens = Input("tokens", (1, 7), "int64", law, ("N", "T"))
    assert tokens.stack(list(rows[:3])).shape == (3, 7)
    with pytest.raises(CheckpointError, match="outside 0 to 49"):
        tokens.check(np.full((1, 7), 50))
