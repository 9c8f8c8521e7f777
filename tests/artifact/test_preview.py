from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmexport.artifact.preview import CAPTION_HEIGHT, GAP, write_grid, write_preview, write_way
from cmexport.errors import OutputError, UsageError

BLACK, WHITE, MAGENTA = [0, 0, 0], [255, 255, 255], [255, 0, 255]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def cell(sheet: np.ndarray, row: int, column: int, side: int, captions: bool) -> np.ndarray:
    """The enlarged picture at a place of a sheet, found by the layout and not by the code."""
    strip = side + 2 * GAP + CAPTION_HEIGHT if captions else side + GAP
    top = row * strip + (CAPTION_HEIGHT if captions else 0) + GAP
    left = GAP + column * (side + GAP)
    return sheet[top : top + side, left : left + side]


def test_preview_shows_reference_artefact_and_amplified_difference(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(20, 200, (3, 32, 32, 3)).astype(np.uint8)
    reference = (levels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    candidate = reference.copy()
    candidate[1, 0, 5, 7] += 2 / 127.5
    write_preview(tmp_path / "preview.png", reference, candidate)
    sheet = pixels(tmp_path / "preview.png")
    assert sheet.shape == (3 * (96 + 2 * GAP + CAPTION_HEIGHT), 3 * (96 + GAP) + GAP, 3)
    for index in range(3):
        assert np.array_equal(cell(sheet, 0, index, 96, True), np.kron(levels[index], np.ones((3, 3, 1), np.uint8)))
    assert cell(sheet, 1, 1, 96, True)[15, 21].tolist() == (levels[1, 5, 7] + [2, 0, 0]).tolist()
    apart = cell(sheet, 2, 1, 96, True)
    assert apart[15:18, 21:24].reshape(-1, 3).tolist() == [[2 * 16, 0, 0]] * 9
    assert apart.astype(int).sum() == 9 * 2 * 16
    assert not cell(sheet, 2, 0, 96, True).any()


def test_captions_are_drawn(tmp_path: Path) -> None:
    grey = np.zeros((8, 3, 32, 32), dtype=np.float32)
    write_preview(tmp_path / "p.png", grey, grey)
    sheet = pixels(tmp_path / "p.png")
    strip = 96 + 2 * GAP + CAPTION_HEIGHT
    for row in range(3):
        assert (sheet[row * strip : row * strip + CAPTION_HEIGHT] < 128).any()


def test_columns_limit_the_pictures(tmp_path: Path) -> None:
    many = np.zeros((20, 1, 8, 8), dtype=np.float32)
    write_preview(tmp_path / "p.png", many, many, columns=4)
    assert pixels(tmp_path / "p.png").shape[1] == 4 * (96 + GAP) + GAP


def test_pixels_that_are_not_a_number_are_magenta(tmp_path: Path) -> None:
    good = np.zeros((1, 3, 96, 96), dtype=np.float32)
    bad = good.copy()
    bad[0, 1, 2, 3] = np.nan
    bad[0, 1, 2, 4] = np.inf
    write_preview(tmp_path / "p.png", good, bad)
    sheet = pixels(tmp_path / "p.png")
    for row in (1, 2):
        assert cell(sheet, row, 0, 96, True)[2, 3].tolist() == MAGENTA
        assert cell(sheet, row, 0, 96, True)[2, 4].tolist() == MAGENTA
    assert cell(sheet, 0, 0, 96, True)[2, 3].tolist() != MAGENTA


def test_bytes_and_floats_mix(tmp_path: Path) -> None:
    reference = np.full((1, 3, 96, 96), -1.0, dtype=np.float32)
    candidate = np.full((1, 96, 96, 3), 1, dtype=np.uint8)
    write_preview(tmp_path / "p.png", reference, candidate)
    sheet = pixels(tmp_path / "p.png")
    assert cell(sheet, 1, 0, 96, True)[0, 0].tolist() == [1, 1, 1]
    assert cell(sheet, 2, 0, 96, True)[0, 0].tolist() == [16] * 3


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (10, 4, 3), (64, 8, 8), (65, 9, 8)]
)
def test_grid_is_near_square(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    write_grid(tmp_path / "g.png", np.zeros((count, 96, 96, 3), dtype=np.uint8))
    assert pixels(tmp_path / "g.png").shape == (rows * (96 + GAP) + GAP, columns * (96 + GAP) + GAP, 3)


def test_grid_runs_row_by_row_and_leaves_paper_at_the_end(tmp_path: Path) -> None:
    shades = np.arange(5, dtype=np.uint8).repeat(32 * 32 * 3).reshape(5, 32, 32, 3) * 40
    write_grid(tmp_path / "g.png", shades)
    sheet = pixels(tmp_path / "g.png")
    for index in range(5):
        shown = cell(sheet, index // 3, index % 3, 96, False)
        assert (shown == 40 * index).all()
    assert cell(sheet, 1, 2, 96, False).reshape(-1, 3).min(axis=0).tolist() == WHITE
    assert sheet[0, 0].tolist() == WHITE


@pytest.mark.parametrize(("channels", "expected"), [(1, [255, 255, 255]), (2, [255, 255, 0]), (3, WHITE), (4, WHITE)])
def test_any_number_of_channels(tmp_path: Path, channels: int, expected: list[int]) -> None:
    write_grid(tmp_path / "g.png", np.ones((1, channels, 128, 128), dtype=np.float32))
    sheet = pixels(tmp_path / "g.png")
    assert sheet.shape[0] == 128 + 2 * GAP
    assert sheet[GAP, GAP].tolist() == expected


@pytest.mark.parametrize("name", ["grid.jpg", "grid"])
def test_only_png(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="PNG"):
        write_grid(tmp_path / name, np.zeros((1, 3, 8, 8), dtype=np.float32))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_grid(tmp_path / "absent" / "g.png", np.zeros((1, 3, 8, 8), dtype=np.float32))


def _moving(path: Path) -> tuple[list[np.ndarray], list[int]]:
    with Image.open(path) as image:
        frames, times = [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")).copy())
            times.append(image.info["duration"])
    return frames, times


def test_a_way_is_a_strip_until_it_is_long(tmp_path: Path) -> None:
    for count, columns in ((12, 12), (13, 4)):
        write_way(tmp_path / "way.png", np.zeros((count, 3, 96, 96), dtype=np.float32))
        with Image.open(tmp_path / "way.png") as image:
            assert image.width == columns * 100 + 4


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".WEBP"])
def test_a_way_that_moves_goes_there_and_back(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(-1, 1, 4, dtype=np.float32)
    pictures = np.broadcast_to(levels[:, None, None, None], (4, 3, 96, 96))
    write_way(tmp_path / f"way{suffix}", pictures)
    frames, times = _moving(tmp_path / f"way{suffix}")
    assert [int(frame[50, 50, 0]) for frame in frames] == [0, 85, 170, 255, 170, 85]
    assert [frame.shape for frame in frames] == [(96, 96, 3)] * 6
    assert times == [400, 80, 80, 400, 80, 80]


def test_a_way_in_another_format(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name the file \*.png"):
        write_way(tmp_path / "way.jpg", np.zeros((2, 3, 8, 8), dtype=np.float32))
