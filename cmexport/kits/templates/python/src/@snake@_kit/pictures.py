"""Between pictures that people see, bytes (H, W, C) from the top left, and a model's numbers from -1 to 1."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .errors import BadInput

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def to_bytes(image: npt.NDArray[np.generic]) -> Picture:
    """Show what a model gave, (1, C, H, W) in [-1, 1] or ready bytes (1, H, W, C), as bytes (H, W, C).

    rint((x + 1) * 127.5) in float32, half to even; NaN is 0. In float64 some ties would fall elsewhere.
    """
    if image.dtype == np.uint8:
        ready: Picture = image[0].astype(np.uint8)
        return ready
    wide = image[0].astype(np.float32)
    levels = np.nan_to_num(np.rint((wide + np.float32(1)) * np.float32(127.5)).clip(0, 255), nan=0.0)
    shown: Picture = levels.transpose(1, 2, 0).astype(np.uint8)
    return shown


def from_bytes(picture: Picture, shape: tuple[int, ...], name: str) -> Floats:
    """Bytes (H, W, C) as a model takes them, (1, C, H, W) from -1 to 1.

    Raises:
        BadInput: they have another shape, or are no bytes.
    """
    _, channels, height, width = shape
    expected = (height, width, channels)
    given = picture[:, :, None] if channels == 1 and picture.ndim == 2 else picture
    if given.dtype != np.uint8 or given.shape != expected:
        raise BadInput(f"{name}: bytes of shape {expected} are needed, not {given.dtype} {given.shape}")
    floats: Floats = given.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1)
    return floats


def from_mask(mask: Picture, shape: tuple[int, ...]) -> Floats:
    """Turn a mask (H, W), 255 where the picture is kept and 0 where it is painted, into what a model takes.

    Raises:
        BadInput: it has another shape, or is neither bytes nor boolean.
    """
    if mask.shape != shape[2:] or mask.dtype not in (np.uint8, np.bool_):
        raise BadInput(f"mask: bytes or booleans of shape {shape[2:]} are needed, not {mask.dtype} {mask.shape}")
    kept: Floats = (mask >= 128 if mask.dtype == np.uint8 else mask)[None, None].astype(np.float32)
    return kept


def keeping(image: Picture, mask: Picture, drawn: Picture) -> Picture:
    """Put the kept pixels of `image` into `drawn`, both (H, W, C): a graph in few bits keeps them only nearly."""
    kept = (mask >= 128 if mask.dtype == np.uint8 else mask)[:, :, None]
    whole: Picture = np.where(kept, image.reshape(drawn.shape), drawn).astype(np.uint8)
    return whole


def psnr(expected: Picture, found: Picture) -> float:
    """How alike two pictures are, in dB over bytes with peak 255; infinite where they are equal."""
    error = float(np.mean((expected.astype(np.float64) - found.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255.0**2 / error)
