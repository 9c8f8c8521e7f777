"""Pictures and masks from files: what is done to them, and what is refused in a sentence."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cmexport.errors import CheckpointError, UsageError
from cmexport.photos import Geometry, read_mask, read_photo


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def test_a_picture_of_the_right_size_comes_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    photo, geometry = read_photo(save(tmp_path / "a.png", pixels), (8, 8), 3)
    assert photo.dtype == np.float32
    np.testing.assert_allclose(photo, pixels.transpose(2, 0, 1) / 127.5 - 1.0, atol=1e-6)
    assert geometry == Geometry(8, 8, (8, 8))
    assert geometry.remark == ""


def test_others_lose_their_sides_and_are_resized_and_that_is_said(tmp_path):
    pixels = np.zeros((16, 40, 3), dtype=np.uint8)
    pixels[:, 12:28] = 255
    photo, geometry = read_photo(save(tmp_path / "wide.png", pixels), (8, 8), 3)
    assert photo.shape == (3, 8, 8)
    assert photo.min() == 1.0
    assert "middle 16 x 16 of 40 x 16" in geometry.remark
    assert "8 x 8" in geometry.remark


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tiff", ".gif", ".ppm"])
def test_usual_formats(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", np.full((8, 8, 3), 200, dtype=np.uint8))
    assert read_photo(path, (8, 8), 3)[0].mean() == pytest.approx(200 / 127.5 - 1.0, abs=0.02)


def test_grey_models_and_grey_palette_and_transparent_and_16_bit_pictures(tmp_path):
    grey = save(tmp_path / "grey.png", np.full((8, 8), 255, dtype=np.uint8))
    assert read_photo(grey, (8, 8), 1)[0].shape == (1, 8, 8)
    assert read_photo(grey, (8, 8), 3)[0].min() == 1.0
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    assert read_photo(save(tmp_path / "clear.png", clear), (8, 8), 3)[0].min() == 1.0
    deep = save(tmp_path / "deep.png", np.full((8, 8), 32768, dtype=np.uint16))
    assert abs(read_photo(deep, (8, 8), 3)[0]).max() < 0.01
    palette = Image.fromarray(np.full((8, 8, 3), 255, dtype=np.uint8)).convert("P")
    palette.save(tmp_path / "palette.png")
    assert read_photo(tmp_path / "palette.png", (8, 8), 3)[0].min() == 1.0


def test_a_photograph_lying_on_its_side_is_turned(tmp_path):
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.png", pixels, exif=exif)
    assert read_photo(path, (8, 8), 3)[1] == Geometry(8, 16, (8, 8))


def test_masks_follow_their_picture(tmp_path):
    mask = np.zeros((16, 40), dtype=np.uint8)
    mask[:, :20] = 255
    found = read_mask(save(tmp_path / "mask.png", mask), Geometry(40, 16, (8, 8)))
    assert found.shape == (1, 8, 8)
    assert found.dtype == np.float32
    assert np.array_equal(found[0], np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0))
    small = read_mask(save(tmp_path / "small.png", np.full((8, 8), 127, np.uint8)), Geometry(40, 16, (8, 8)))
    assert not small.any()


def test_a_mask_of_another_size_is_refused(tmp_path):
    path = save(tmp_path / "mask.png", np.zeros((9, 8), dtype=np.uint8))
    with pytest.raises(CheckpointError, match=r"mask is 8 x 9 pixels, the picture 16 x 16"):
        read_mask(path, Geometry(16, 16, (8, 8)))


def bomb(path, width, height):
    """A few bytes of PNG that announce a huge picture."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    return path


def hostile(kind, folder):
    path = folder / "bad.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "folder":
        path.mkdir()
    elif kind == "bomb":
        bomb(path, 60_000, 60_000)
    elif kind == "small bomb":
        bomb(path, 9_000, 9_000)
    elif kind == "truncated":
        noisy = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = save(folder / "whole.png", noisy).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no pixels":
        bomb(path, 0, 0)
    elif kind == "postscript":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    elif kind == "floats":
        Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(path, format="TIFF")
    return path


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "text", "folder", "bomb", "small bomb", "truncated", "no pixels", "postscript", "floats"],
)
def test_what_is_no_picture_is_refused_in_a_sentence(tmp_path, kind):
    path = hostile(kind, tmp_path)
    for read in (lambda: read_photo(path, (8, 8), 3), lambda: read_mask(path, Geometry(8, 8, (8, 8)))):
        with pytest.raises(CheckpointError, match=r"bad\.png") as caught:
            read()
        assert len(str(caught.value).splitlines()) == 1


def test_a_model_without_colours_takes_no_photograph(tmp_path):
    path = save(tmp_path / "a.png", np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(UsageError, match="4 channels"):
        read_photo(path, (8, 8), 4)
