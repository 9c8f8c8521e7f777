"""Who compares an artefact's pictures with the reference's: features, perhaps classes, perhaps real pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmexport.errors import CheckpointError, first_line
from cmexport.quality.features import load_features, read_statistics
from cmexport.quality.frechet import Gaussian
from cmexport.quality.inception import NAME as INCEPTION
from cmexport.quality.inception import inception_features
from cmexport.quality.ruler import Ruler
from cmexport.runner import Array

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Jury:
    """Features of pictures and what they are held against.

    Attributes:
        name: as `--features` had it.
        features: (N, C, H, W) float32 in [-1, 1] to (N, D).
        classify: features (N, D) to scores (N, classes), the largest of which names the class; None for a judge that
            knows no classes.
        real: mean and covariance of real pictures' features; None where nobody said.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    classify: Callable[[Tensor], Tensor] | None
    real: Gaussian | None

    def judge(self, pictures: Array) -> tuple[Features, Features | None]:
        """Features (N, D) float32 and scores (N, classes) of pictures (N, C, H, W) in [-1, 1].

        Raises:
            CheckpointError: the judge refuses the pictures, or what it returns are no features.
        """
        shown = torch.from_numpy(pictures)
        features = self._called(self.features, shown, "(N, D)")
        if self.real is not None and features.shape[1] != len(self.real.mean):
            raise CheckpointError(
                f"--features {self.name}: {features.shape[1]} features, but the statistics of real pictures are "
                f"of {len(self.real.mean)}"
            )
        scores = None if self.classify is None else self._called(self.classify, features, "(N, classes) of classify")
        return features.float().numpy(), None if scores is None else scores.float().numpy()

    def _called(self, function: Callable[[Tensor], Tensor], given: Tensor, form: str) -> Tensor:
        try:
            with torch.no_grad():
                found = torch.as_tensor(function(given))
        except Exception as error:  # a stranger's code, and any network on pictures of another size or channel count
            raise CheckpointError(
                f"--features {self.name}: fails on an input of shape {tuple(given.shape)}: {first_line(error)}"
            ) from error
        if found.ndim != 2 or len(found) != len(given) or found.shape[1] == 0:
            raise CheckpointError(
                f"--features {self.name}: {form} is expected for N = {len(given)}, not shape {tuple(found.shape)}"
            )
        return found


def load_jury(features: str, statistics: str | None = None) -> Jury:
    """Load the jury that a user names.

    Args:
        features: as `features.load_judge` takes it, or "inception". A callable's attribute `classify`, from features
            to scores, is used where it has one; a ruler's classifier always.
        statistics: an `.npz` file with `mu` and `cov`; without it, what the file or the callable brings, if any.

    Raises:
        CheckpointError: a file or the module can't be used.
        BackendError: "inception" is asked for and not at hand.
    """
    function, real = (inception_features(), None) if features == INCEPTION else load_features(features)
    if statistics is not None:
        real = read_statistics(Path(statistics))
    classify = function.fc if isinstance(function, Ruler) else getattr(function, "classify", None)
    if classify is not None and not callable(classify):
        raise CheckpointError(f"--features {features}: its attribute classify is no callable")
    return Jury(features, function, classify, real)
