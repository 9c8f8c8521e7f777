"""How far two sets of pictures lie apart. Numpy only, float64 inside.

Pictures are float (N, C, H, W) in [-1, 1] (peak 2.0) or uint8 (N, H, W, C). When either side is bytes, both are
compared as bytes: the float side is rounded first, since a byte can't say more than its level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmexport.errors import CheckpointError
from cmexport.runner import Array

PEAK = 2.0
"""Distance between black and white of a float picture."""


@dataclass(frozen=True)
class PictureDifference:
    """Statistics of candidate pictures against reference pictures.

    Attributes:
        pictures: how many pairs were compared.
        identical_pictures: pairs without a single differing number; their PSNR is infinite.
        non_finite: NaN and Inf numbers on either side. One is enough to fail every gate.
        mean_db: mean over pictures of the PSNR in dB. As soon as one picture is identical that mean is infinite, and
            this is the PSNR of the mean squared error over all pictures instead: by Jensen's inequality never above
            the mean. None when all pictures are identical or any number is not finite (see the two counts).
        min_db: PSNR of the worst picture in dB; None as for `mean_db`.
        worst_picture: index of that picture, or of the first one with a non-finite number; None if all are identical.
        max_abs: largest absolute difference in units of [-1, 1], over numbers that are finite on both sides.
        off_by_1: share (0 to 1) of bytes off by at least 1 level of 255; a non-finite number counts as off.
        off_by_2: the same for 2 levels.
        off_by_4: the same for 4 levels.
    """

    pictures: int
    identical_pictures: int
    non_finite: int
    mean_db: float | None
    min_db: float | None
    worst_picture: int | None
    max_abs: float
    off_by_1: float
    off_by_2: float
    off_by_4: float

    @property
    def identical(self) -> bool:
        """Whether every picture is exactly the reference's."""
        return self.identical_pictures == self.pictures and self.non_finite == 0

    def passes(self, gate_db: float) -> bool:
        """Whether the mean PSNR reaches the gate with every number finite."""
        reached = self.identical or (self.mean_db is not None and self.mean_db >= gate_db)
        return reached and self.non_finite == 0


@dataclass(frozen=True)
class _OnePicture:
    mse: float
    non_finite: int
    max_abs: float
    off_by_1: int
    off_by_2: int
    off_by_4: int


def psnr_db(mse: float) -> float:
    """PSNR in dB of a mean squared error with peak 2.0: 10 log10(4 / mse); infinite at zero."""
    return math.inf if mse == 0.0 else 10.0 * math.log10(PEAK**2 / mse)


def as_bytes(pictures: Array) -> npt.NDArray[np.uint8]:
    """Float (N, C, H, W) or uint8 (N, H, W, C) to uint8 (N, H, W, C), rounding to the nearest level; NaN becomes 0.

    The arithmetic stays in float32 for float32 pictures, as in the exported graph, so that ties fall the same way.
    """
    if pictures.dtype == np.uint8:
        return pictures.view(np.uint8)
    wide: npt.NDArray[np.floating] = pictures.astype(np.float64 if pictures.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore"):
        levels = np.nan_to_num(np.rint(((wide + 1) * 127.5).clip(0, 255)), nan=0.0)
    result: npt.NDArray[np.uint8] = levels.transpose(0, 2, 3, 1).astype(np.uint8)
    return result


def channels_last(pictures: Array) -> npt.NDArray[np.float64]:
    """Float (N, C, H, W) or uint8 (N, H, W, C) to float64 (N, H, W, C); byte b becomes b / 127.5 - 1."""
    if pictures.dtype == np.uint8:
        return pictures.astype(np.float64) / 127.5 - 1.0
    return pictures.transpose(0, 2, 3, 1).astype(np.float64)


def count_non_finite(pictures: Array) -> int:
    """Count NaN and Inf values."""
    return int(pictures.size - np.isfinite(pictures).sum()) if pictures.dtype.kind == "f" else 0


def _shape(pictures: Array) -> tuple[int, ...]:
    count, *rest = pictures.shape
    return (count, *rest) if pictures.dtype == np.uint8 else (count, *rest[1:], rest[0])


def _compare_one(reference: Array, candidate: Array) -> _OnePicture:
    """Compare two single pictures, (1, C, H, W) or (1, H, W, C)."""
    bytes_a, bytes_b = as_bytes(reference), as_bytes(candidate)
    if reference.dtype == np.uint8 or candidate.dtype == np.uint8:
        a, b = channels_last(bytes_a), channels_last(bytes_b)
    else:
        a, b = channels_last(reference), channels_last(candidate)
    bad = ~(np.isfinite(channels_last(reference)) & np.isfinite(channels_last(candidate)))
    with np.errstate(invalid="ignore"):
        apart = a - b
    apart = np.where(bad, 0.0, apart)
    levels = np.where(bad, 255, np.abs(bytes_a.astype(np.int16) - bytes_b))
    return _OnePicture(
        mse=float(np.mean(np.square(apart))),
        non_finite=count_non_finite(reference) + count_non_finite(candidate),
        max_abs=float(np.abs(apart).max()),
        off_by_1=int((levels >= 1).sum()),
        off_by_2=int((levels >= 2).sum()),
        off_by_4=int((levels >= 4).sum()),
    )


def compare(reference: Array, candidate: Array) -> PictureDifference:
    """Measure candidate pictures against reference pictures of the same count and size.

    Raises:
        CheckpointError: the two are not pictures of the same count and size.
        ValueError: there are no pictures.
    """
    if reference.ndim != 4 or candidate.ndim != 4:
        raise CheckpointError(f"pictures have 4 axes, not shapes {reference.shape} and {candidate.shape}")
    shape, other = _shape(reference), _shape(candidate)
    if shape != other:
        raise CheckpointError(
            f"the pictures differ in shape, {shape} and {other} as (N, H, W, C): these are not the same model"
        )
    count = shape[0]
    if reference.size == 0:
        raise ValueError("no pictures to compare")
    each = [_compare_one(reference[i : i + 1], candidate[i : i + 1]) for i in range(count)]
    non_finite = sum(one.non_finite for one in each)
    identical = sum(one.mse == 0.0 and one.non_finite == 0 for one in each)
    mean_db = min_db = None
    worst: int | None = None
    if non_finite:
        worst = next(i for i, one in enumerate(each) if one.non_finite)
    elif identical < count:
        worst = max(range(count), key=lambda i: each[i].mse)
        min_db = psnr_db(each[worst].mse)
        if identical:
            mean_db = psnr_db(math.fsum(one.mse for one in each) / count)
        else:
            mean_db = math.fsum(psnr_db(one.mse) for one in each) / count
    return PictureDifference(
        pictures=count,
        identical_pictures=identical,
        non_finite=non_finite,
        mean_db=mean_db,
        min_db=min_db,
        worst_picture=worst,
        max_abs=max(one.max_abs for one in each),
        off_by_1=sum(one.off_by_1 for one in each) / reference.size,
        off_by_2=sum(one.off_by_2 for one in each) / reference.size,
        off_by_4=sum(one.off_by_4 for one in each) / reference.size,
    )
