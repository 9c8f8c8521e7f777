"""Pictures for people: `preview.png` of an artefact, and grids of samples."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cmexport.artifact.writing import write_atomically
from cmexport.errors import UsageError
from cmexport.parity.metrics import as_bytes, channels_last
from cmexport.runner import Array

Pixels = npt.NDArray[np.uint8]

AMPLIFICATION = 16
"""Differences in the preview are this many times too bright: one level of 255 becomes a visible 16."""
LEAST_SIDE = 96
"""Pictures are enlarged by a whole factor to at least this many pixels, or 32 x 32 can't be judged."""
GAP = 4
CAPTION_HEIGHT = 18
ANIMATIONS = {".gif": "GIF", ".webp": "WEBP"}
"""Kinds of moving pictures by the ends of their names."""
_MOST_IN_STRIP = 12
_FRAME_MS, _END_MS = 80, 400
_PAPER = 255
_NOT_A_NUMBER = (255, 0, 255)


def write_preview(path: Path, reference: Array, candidate: Array, columns: int = 8, names: Sequence[str] = ()) -> None:
    """Write three captioned rows as PNG: reference, artefact, amplified difference (black is equal).

    Args:
        path: a `.png` file.
        reference: float (N, C, H, W) in [-1, 1] or uint8 (N, H, W, C).
        candidate: the same pictures from the artefact.
        columns: pictures shown, from the first.
        names: of the pictures' classes, in turn; written below.

    Raises:
        UsageError: the name doesn't end in `.png`.
        OutputError: the file can't be written.
    """
    first, second = _to_rgb(reference[:columns]), _to_rgb(candidate[:columns])
    # Not clipped first: a difference beyond white shows as well.
    with np.errstate(invalid="ignore"):
        apart = np.abs(channels_last(reference[:columns]) - channels_last(candidate[:columns])) * (
            127.5 * AMPLIFICATION
        )
    broken = ~np.isfinite(apart)
    amplified = _three_channels(np.rint(np.where(broken, 0.0, apart).clip(0, 255)).astype(np.uint8))
    amplified[broken.any(axis=-1)] = _NOT_A_NUMBER
    rows = [
        ("reference (PyTorch)", first),
        ("artefact", second),
        (f"difference x {AMPLIFICATION}, black = equal", amplified),
    ]
    strips = [strip for caption, pictures in rows for strip in (caption, _tile(pictures, len(pictures)))]
    width = max(s.shape[1] for s in strips if not isinstance(s, str))
    sheet = [_caption(s, width) if isinstance(s, str) else s for s in strips]
    if names:
        shown = [names[i % len(names)] for i in range(len(first))]
        sheet.append(_captions(shown, width))
    _save(path, np.concatenate(sheet))


def write_grid(path: Path, pictures: Array) -> None:
    """Write pictures as a near-square PNG grid, row by row: 64 become 8 x 8.

    Args:
        path: a `.png` file.
        pictures: float (N, C, H, W) in [-1, 1] or uint8 (N, H, W, C), at least one.

    Raises:
        UsageError: the name doesn't end in `.png`.
        OutputError: the file can't be written.
    """
    _save(path, _tile(_to_rgb(pictures), math.isqrt(len(pictures) - 1) + 1))


def write_way(path: Path, pictures: Array) -> None:
    """Write pictures on the way from one to another: up to 12 as a strip, more as a grid, or as an animation.

    An animation goes there and back, for ever, 80 ms a picture and longer at both ends.

    Args:
        path: a `.png` file, or a `.gif` or `.webp` file for the animation. GIF has 256 colours; WebP loses nothing.
        pictures: float (N, C, H, W) in [-1, 1] or uint8 (N, H, W, C), at least two.

    Raises:
        UsageError: the name ends in something else.
        OutputError: the file can't be written.
    """
    kind = ANIMATIONS.get(path.suffix.lower())
    if kind is None:
        if len(pictures) > _MOST_IN_STRIP:
            write_grid(path, pictures)
        else:
            _save(path, _tile(_to_rgb(pictures), len(pictures)))
        return
    there = [Image.fromarray(_tile(picture[None], 1)[GAP:-GAP, GAP:-GAP]) for picture in _to_rgb(pictures)]
    frames = [*there, *there[-2:0:-1]]
    times = [_END_MS if i in (0, len(there) - 1) else _FRAME_MS for i in range(len(frames))]
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=times, loop=0, **options)
    write_atomically(path, buffer.getvalue())


def write_row(path: Path, pictures: Sequence[tuple[str, Array]]) -> None:
    """Write captioned pictures side by side as PNG: before | masked | after.

    Args:
        path: a `.png` file.
        pictures: caption and one picture each, float (C, H, W) in [-1, 1] or uint8 (H, W, C), of one size.

    Raises:
        UsageError: the name doesn't end in `.png`.
        OutputError: the file can't be written.
    """
    tiles = [(caption, _tile(_to_rgb(picture[None]), 1)) for caption, picture in pictures]
    _save(path, np.concatenate([np.concatenate([_caption(c, t.shape[1]), t]) for c, t in tiles], axis=1))


def _three_channels(pixels: Pixels) -> Pixels:
    """Grey is repeated, a third channel is added in black, and channels beyond three are left out."""
    channels = pixels.shape[-1]
    if channels == 1:
        return np.repeat(pixels, 3, axis=-1)
    if channels == 2:
        return np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    return pixels[..., :3].copy()


def _to_rgb(pictures: Array) -> Pixels:
    """(N, H, W, 3) bytes; pixels that are not a number are magenta."""
    pixels = _three_channels(as_bytes(pictures))
    pixels[~np.isfinite(channels_last(pictures)).all(axis=-1)] = _NOT_A_NUMBER
    return pixels


def _tile(pictures: Pixels, columns: int) -> Pixels:
    """Enlarge (N, H, W, 3) by a whole factor and lay them out in rows on white paper, with a gap all round."""
    count, height, width, _ = pictures.shape
    factor = -(-LEAST_SIDE // min(height, width)) if min(height, width) < LEAST_SIDE else 1
    large = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = height * factor, width * factor
    rows = -(-count // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), _PAPER, dtype=np.uint8)
    for index, picture in enumerate(large):
        top, left = GAP + index // columns * (height + GAP), GAP + index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _caption(text: str, width: int) -> Pixels:
    strip = Image.new("RGB", (width, CAPTION_HEIGHT), (_PAPER,) * 3)
    ImageDraw.Draw(strip).text((GAP, 3), text, fill=(0, 0, 0))
    return np.asarray(strip, dtype=np.uint8)


def _captions(texts: Sequence[str], width: int) -> Pixels:
    """One below each column, cut off where it would run into the next."""
    each = (width - GAP) // len(texts)
    parts = [_caption(text, each) for text in texts]
    return np.pad(
        np.concatenate(parts, axis=1), ((0, 0), (0, width - each * len(texts)), (0, 0)), constant_values=_PAPER
    )


def _save(path: Path, sheet: Pixels) -> None:
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are written as PNG; name the file *.png")
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
