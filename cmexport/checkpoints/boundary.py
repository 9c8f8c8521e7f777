"""The boundary condition f(x, sigma_min) = x, checked at load: it costs one evaluation and catches broken weights."""

from __future__ import annotations

import torch

from cmexport.errors import CheckpointError
from cmexport.model import ConsistencyModel
from cmexport.sampling.denoiser import denoise

# 0 for `cm`, whose c_out vanishes at sigma_min; the others vanish at sigma 0. Any difference is a wrong formula.
TOLERANCE = 1e-6
# Networks are convolutional: 32 pixels are enough, and a 256-pixel network would need seconds and 2 GB. One that
# halves its pictures six times (128 pixels and seven levels) has nothing left of 32. Two pixels must be left at the
# bottom, since GroupNorm takes no group of a single number.
PROBE_PIXELS = 32
_AT_SIGMA_MIN = frozenset({"cm", "ctm", "ctm_cm", "cm_without_c_in"})
# No sigma makes this form the identity: c_out is 0.002 where c_skip is 1. Only finite output can be asked for.
_NOWHERE = frozenset({"consistency_pipeline"})


def boundary_error(model: ConsistencyModel, *, whole: bool = False) -> float:
    """Largest |f(x, s) - x| on a small random x, at s = sigma_min (`cm`, `ctm`, `ctm_cm`) or s = 0 (the other forms).

    Args:
        model: a freshly loaded model.
        whole: x is as large as the model's pictures, for networks whose halvings are unknown; by default each side is
            at most 32 pixels, or the smallest side the network takes.

    Returns:
        The error, NaN or Inf if the network's output is.
    """
    space = model.space
    most = max(space.height, space.width) if whole else max(PROBE_PIXELS, 2 * space.multiple)
    sigma = model.noise.sigma_min if model.preconditioning in _AT_SIGMA_MIN else 0.0
    shape = (1, space.channels, min(space.height, most), min(space.width, most))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    conditions = model.examples(1)
    if model.schedule is not None:
        # LCM's boundary condition holds at timestep 0, which is not evaluated; others have none.
        with torch.no_grad():
            predicted = model.network(x, torch.tensor([float(model.schedule.train_steps - 1)]), **conditions)
        return 0.0 if torch.isfinite(predicted).all() and predicted.shape == x.shape else float("nan")
    if model.preconditioning in _NOWHERE:
        result = denoise(model, x, model.noise.sigma_min, **conditions)
        return 0.0 if torch.isfinite(result).all() else float("nan")
    return (denoise(model, x, sigma, **conditions) - x).abs().max().item()


def require_boundary(model: ConsistencyModel, *, whole: bool = False) -> ConsistencyModel:
    """Check that the model meets its boundary condition, and return it.

    Raises:
        CheckpointError: it does not, or it can't be evaluated at all.
    """
    where = model.source.path
    try:
        error = boundary_error(model, whole=whole)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = str(problem).strip().splitlines() or [type(problem).__name__]
        raise CheckpointError(f"{where}: the network can't be evaluated: {reason[0][:200]}") from problem
    if not error <= TOLERANCE:
        raise CheckpointError(
            f"{where}: f(x, sigma_min) differs from x by {error:.3g}, so this is no working consistency model "
            f"with precond '{model.preconditioning}'"
        )
    return model
