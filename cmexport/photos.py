"""Pictures and masks from files, as a model takes them: of its height and width, in [-1, 1].

Nothing but headers is read before the size is known, so a decompression bomb costs nothing; formats that Pillow hands
to other programs are not opened.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from cmexport.errors import CheckpointError, UsageError
from cmexport.files import require_file

Floats = npt.NDArray[np.float32]

MAX_PIXELS = 50_000_000
"""A 50-megapixel photograph is 150 MB as bytes; larger files are refused unread."""
# EPS runs Ghostscript, WMF calls the operating system's renderer; neither is a photograph.
_REFUSED_FORMATS = frozenset({"EPS", "WMF"})


@dataclass(frozen=True)
class Geometry:
    """How a file's pixels became a model's.

    Attributes:
        width, height: the file's size as seen.
        size: (height, width) it was resized to, after its middle of that shape was taken.
    """

    width: int
    height: int
    size: tuple[int, int]

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width) of the largest middle part that has the model's shape, to a pixel."""
        height, width = self.size
        if self.width * height >= self.height * width:
            return self.height, max(1, round(self.height * width / height))
        return max(1, round(self.width * height / width)), self.width

    @property
    def remark(self) -> str:
        """What was done to the picture, in words; empty when nothing was."""
        (height, width), (cropped_height, cropped_width) = self.size, self.crop
        parts = []
        if (cropped_height, cropped_width) != (self.height, self.width):
            parts.append(f"took the middle {cropped_width} x {cropped_height} of {self.width} x {self.height}")
        if (cropped_height, cropped_width) != (height, width):
            parts.append(f"resized from {cropped_width} x {cropped_height} to {width} x {height}, the model's size")
        return " and ".join(parts)


def read_photo(path: Path, size: tuple[int, int], channels: int) -> tuple[Floats, Geometry]:
    """Read a picture as (C, H, W) in [-1, 1], and what was done to it.

    Transparent pixels are laid on white, 16-bit grey keeps its upper bits, of an animation the first frame is taken.

    Args:
        path: any raster file Pillow reads.
        size: height and width of the model's pictures; others lose what their middle has beyond that shape and are
            resized (Lanczos).
        channels: 3 for colours, 1 for grey.

    Raises:
        UsageError: the model's pictures have no colours a file could hold.
        CheckpointError: the file is missing, is no picture, is damaged or is too large.
    """
    if channels not in (1, 3):
        raise UsageError(f"{path}: the model's pictures have {channels} channels; a photograph can't be one of them")
    picture = _open(path)
    geometry = Geometry(*picture.size, size)
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(path, picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = picture.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(_fit(picture, geometry, Image.Resampling.LANCZOS), dtype=np.float32)
    return (pixels.reshape(*size, channels).transpose(2, 0, 1) / 127.5 - 1.0).astype(np.float32), geometry


def read_mask(path: Path, geometry: Geometry) -> Floats:
    """Read a mask as (1, H, W): 1 where the file is lighter than middle grey (keep), 0 elsewhere.

    It is cropped and resized as its picture was, without blending.

    Raises:
        CheckpointError: as `read_photo`, or the mask has neither the picture file's size nor the model's.
    """
    mask = _open(path)
    wanted, own = (geometry.width, geometry.height), geometry.size[::-1]
    if mask.size not in (wanted, own):
        raise CheckpointError(
            f"{path}: the mask is {mask.width} x {mask.height} pixels, the picture {wanted[0]} x {wanted[1]}; "
            "they must match, white where the picture is kept"
        )
    if mask.mode.startswith(("I", "F")):
        mask = _eight_bits(path, mask)
    kept = np.asarray(_fit(mask.convert("L"), Geometry(*mask.size, geometry.size), Image.Resampling.NEAREST)) >= 128
    return kept[None].astype(np.float32)


def _open(path: Path) -> Image.Image:
    require_file(path, "a picture")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=[f for f in Image.OPEN if f not in _REFUSED_FORMATS]) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise CheckpointError(
                        f"{path}: {file.width} x {file.height} pixels are more than the {MAX_PIXELS / 1e6:.0f} million "
                        "cmexport reads; make it smaller first"
                    )
                file.load()
                return ImageOps.exif_transpose(file)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except CheckpointError:
        raise
    except Image.DecompressionBombError:
        raise CheckpointError(
            f"{path}: more than {MAX_PIXELS / 1e6:.0f} million pixels; make it smaller first"
        ) from None
    except Exception as error:  # damaged files raise whatever their decoder stumbles over
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(str(path), "it")
        raise CheckpointError(f"{path}: not a picture that can be read ({reason})") from error


def _eight_bits(path: Path, picture: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit; `convert` would clip it to white."""
    levels = np.asarray(picture)
    if not picture.mode.startswith("I") or levels.min() < 0 or levels.max() > 65535:
        raise CheckpointError(f"{path}: its numbers are no brightnesses (mode {picture.mode}); save it as PNG or JPEG")
    return Image.fromarray((levels.astype(np.uint32) * 255 // 65535).astype(np.uint8))


def _fit(picture: Image.Image, geometry: Geometry, resampling: Image.Resampling) -> Image.Image:
    height, width = geometry.crop
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    picture = picture.crop((left, top, left + width, top + height))
    return picture if (height, width) == geometry.size else picture.resize(geometry.size[::-1], resampling)
