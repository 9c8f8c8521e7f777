"""Photos come to the model's size as `cmexport sample --image` brings them there: Pillow's LANCZOS, to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import cpp_kits

from cmexport.photos import Geometry, read_mask, read_photo


@pytest.fixture(scope="module")
def program(release, tmp_path_factory) -> Path:
    sources = [cpp_kits.PROGRAMS / "fit.cpp", cpp_kits.TEMPLATES / "src/photo.cpp"]
    return cpp_kits.compiled(tmp_path_factory.mktemp("fit") / "fit", sources, *cpp_kits.SANITIZERS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("width", "height", "new"),
    [
        (640, 480, (32, 32)),
        (33, 500, (32, 48)),
        (7, 5, (64, 64)),
        (32, 32, (32, 32)),
        (1, 1, (8, 4)),
        (1000, 31, (20, 31)),
    ],
)
def test_photos_and_masks(program, tmp_path, width, height, new, channels):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels).save(tmp_path / "photo.png")
    pixels.tofile(tmp_path / "in")
    cpp_kits.run(program, tmp_path / "in", width, height, channels, *new, tmp_path / "out")
    size = (new[1], new[0])
    wanted, _ = read_photo(tmp_path / "photo.png", size, channels)
    found = np.fromfile(tmp_path / "out", np.uint8).reshape(*size, channels).transpose(2, 0, 1)
    assert np.array_equal(found, np.rint((wanted + 1) * 127.5))
    if channels == 1:
        kept = read_mask(tmp_path / "photo.png", Geometry(width, height, size))
        mask = np.fromfile(tmp_path / "out.mask", np.uint8).reshape(1, *size)
        assert np.array_equal(mask >= 128, kept == 1)
