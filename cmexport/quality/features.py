"""Feature networks that judge pictures, from a file in the ruler's format or from the user's own code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmexport.errors import CheckpointError, UsageError
from cmexport.files import require_file
from cmexport.quality.frechet import Gaussian
from cmexport.quality.ruler import Ruler


@dataclass(frozen=True, eq=False)
class Judge:
    """Features of pictures and how they are distributed over real ones.

    Attributes:
        features: (N, C, H, W) float32 in [-1, 1] to (N, D).
        reference: mean and covariance of real pictures' features.
    """

    features: Callable[[Tensor], Tensor]
    reference: Gaussian


def load_judge(features: str, statistics: str | None = None) -> Judge:
    """Load the judge that a user names.

    Args:
        features: a `.pt` file in the ruler's format, or `module:callable` (a callable in the current folder or
            installed, from pictures (N, C, H, W) in [-1, 1] to features (N, D)).
        statistics: an `.npz` file with `mu` (D,) and `cov` (D, D) of real pictures; the ruler's file brings its own,
            and a callable may have attributes of these names.

    Raises:
        UsageError: the text names neither, or no statistics are to be had.
        CheckpointError: the file or the module can't be used.
    """
    function, own = load_features(features)
    reference = own if statistics is None else read_statistics(Path(statistics))
    if reference is None:
        raise UsageError(
            f"--features {features}: what are real pictures like? Give --statistics FILE.npz with mu and cov, "
            "or let the callable have attributes mu and cov"
        )
    return Judge(function, reference)


def load_features(features: str) -> tuple[Callable[[Tensor], Tensor], Gaussian | None]:
    """Load a feature network or the user's callable, and what it says of real pictures itself; see `load_judge`.

    Raises:
        CheckpointError: the file or the module can't be used.
    """
    path = Path(features)
    if ":" in features and not path.is_file():
        function = _own_code(features)
        return function, _attributes(function)
    return _ruler(path)


def _ruler(path: Path) -> tuple[Callable[[Tensor], Tensor], Gaussian]:
    require_file(path, "a feature network")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; --features takes a .pt file or module:callable")
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        mean, covariance = state.pop("_mu"), state.pop("_cov")
        network = Ruler(len(state["fc.bias"]))
        network.load_state_dict(state)
    except Exception as error:  # anything a stranger's file can raise, from pickle to shapes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: not a feature network of the ruler's format ({reason})\n"
            "expected a ResNet-9 state dict with _mu and _cov; for another network give module:callable"
        ) from error
    return network.float().eval().requires_grad_(False), _gaussian(str(path), mean.numpy(), covariance.numpy())


def _own_code(text: str) -> Callable[[Tensor], Tensor]:
    module, _, name = text.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything while it is imported
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"--features {text}: {module}{os.extsep}py can't be used: {reason}") from error
    if not callable(found):
        raise CheckpointError(f"--features {text}: {name} is no callable")
    function: Callable[[Tensor], Tensor] = found
    return function


def _attributes(function: object) -> Gaussian | None:
    mean, covariance = getattr(function, "mu", None), getattr(function, "cov", None)
    return None if mean is None or covariance is None else _gaussian("mu, cov", mean, covariance)


def read_statistics(path: Path) -> Gaussian:
    """Mean `mu` (D,) and covariance `cov` (or `sigma`) (D, D) of real pictures' features, from an `.npz` file.

    Raises:
        CheckpointError: it is not such a file.
    """
    require_file(path, "an .npz file with mu and cov")
    try:
        with np.load(path, allow_pickle=False) as archive:
            # pytorch-fid and its descendants call the covariance sigma.
            mean, covariance = archive["mu"], archive["cov" if "cov" in archive or "sigma" not in archive else "sigma"]
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: an .npz file with mu and cov is expected ({reason})") from error
    return _gaussian(str(path), mean, covariance)


def _gaussian(origin: str, mean: object, covariance: object) -> Gaussian:
    mu, cov = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if mu.ndim != 1 or cov.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(cov).all()):
        raise CheckpointError(f"{origin}: mu {mu.shape} and cov {cov.shape} are no mean and covariance")
    return Gaussian(mu, cov)
