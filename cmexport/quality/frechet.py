"""Fréchet distance between two sets of pictures, in float64 from sums that can be added up anywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over features, (D,) and (D, D) in float64; parts of a set add up to the whole."""

    count: int
    total: Float64
    squares: Float64

    @classmethod
    def of(cls, features: npt.NDArray[np.floating]) -> Self:
        """Moments of features (N, D)."""
        wide = features.astype(np.float64)
        return cls(len(wide), wide.sum(axis=0), wide.T @ wide)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets together."""
        return Moments(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance.

        Raises:
            ValueError: fewer than two pictures.
        """
        if self.count < 2:
            raise ValueError("a covariance needs at least 2 pictures")
        mean = self.total / self.count
        return Gaussian(mean, (self.squares - self.count * np.outer(mean, mean)) / (self.count - 1))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean (D,) and covariance (D, D)."""

    mean: Float64
    covariance: Float64


def add_up(parts: Iterable[Moments]) -> Moments:
    """All parts together; at least one."""
    return reduce(Moments.__add__, parts)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017, arXiv:1706.08500).

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric: no
    complex roots as in `scipy.linalg.sqrtm`, also for singular covariances (fewer pictures than features).
    """
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ second.covariance @ root)
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2.0 * np.sqrt(inner.clip(min=0.0)).sum()
    apart = first.mean - second.mean
    return float(apart @ apart + spread)
