"""Made-up pictures and masks for editing graphs."""

from __future__ import annotations

import numpy as np
import pytest

from cmexport.parity.inputs import draw_inputs
from cmexport.signature import Signature, known


def border(batch=1, size=8):
    pictures = (batch, 3, size, size)
    inputs = known.noise(pictures), known.image(pictures), known.mask(pictures)
    return Signature(inputs, known.finished(pictures, inputs))


def denoising(batch=1, noise=0.0):
    inputs = (known.image((batch, 3, 32, 32), noise),)
    return Signature(inputs, known.finished((batch, 3, 32, 32), inputs))


def test_a_picture_depends_on_its_seed_and_not_on_the_batch():
    single, double = draw_inputs(border(1), 4, seed=3), draw_inputs(border(2), 4, seed=3)
    for name in ("noise", "image", "mask"):
        assert np.array_equal(np.concatenate([run[name] for run in single]), np.concatenate([r[name] for r in double]))
        assert not np.array_equal(single[0][name], single[1][name])
        assert single[0][name].dtype == np.float32
    # Noise is what it would be without an image.
    plain = draw_inputs(Signature((known.noise((1, 3, 8, 8)),), known.finished((1, 3, 8, 8))), 4, seed=3)
    assert np.array_equal(plain[2]["noise"], single[2]["noise"])


@pytest.mark.parametrize("size", [2, 8, 33])
def test_pictures_lie_in_range_and_masks_have_a_quarter_hole(size):
    for run in draw_inputs(border(size=size), 16):
        assert np.abs(run["image"]).max() <= 1.0
        assert run["image"].std() > 0.05
        assert set(np.unique(run["mask"])) == {0.0, 1.0}
        assert (run["mask"] == 0).sum() == (size // 2) ** 2


def test_pictures_are_smooth():
    image = draw_inputs(border(size=32), 1)[0]["image"]
    assert np.abs(np.diff(image, axis=-1)).max() < 0.35


def test_graphs_that_remove_noise_get_noisy_pictures():
    clean = draw_inputs(denoising(), 4)
    noisy = draw_inputs(denoising(noise=2.0), 4)
    added = np.concatenate([n["image"] - c["image"] for n, c in zip(noisy, clean, strict=True)])
    assert added.std() == pytest.approx(2.0, rel=0.05)
    assert denoising(batch=3).batch == 3
