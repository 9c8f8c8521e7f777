"""CTM's gamma sampling: jump a little too far down, then add noise (arXiv:2310.02279, algorithm 3).

From sigma to the next level t, the network jumps to s = sqrt(1 - gamma^2) (t - e) + e, where e = sigma_min, and noise
of sqrt(t^2 - s^2) brings the sample up to t (sony/ctm, cm/sample_util.py, sample_gamma_multistep_). The paper has
s = sqrt(1 - gamma^2) t and noise gamma t, which is the same but for e: no network was trained below it. gamma 0 is
`exact`, without noise; gamma 1 jumps to e each time and adds sqrt(t^2 - e^2), the multistep sampling of consistency
models. As in that code, only the last evaluation's picture is clamped: what the others give is noisy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.deterministic import descending_to, jump_schedule, require_jumps
from cmexport.sampling.evaluations import Evaluation, Evaluations
from cmexport.sampling.preconditioning import c_noise_at, ctm_between
from cmexport.sampling.schedules import Schedule

GAMMA = 0.5
"""Default of sony/ctm's image_sample.py."""


def gamma_of(request: SampleRequest) -> float | None:
    """Return the gamma that a request means; None for other samplers."""
    if request.sampler != "gamma":
        return None
    return GAMMA if request.gamma is None else request.gamma


def gamma_schedule(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    """Take the first K of K + 1 Karras levels, as in sony/ctm; the last jump ends at sigma_min.

    Raises:
        UsageError: K below 1 or beyond `MAX_STEPS`.
    """
    del task, editing_steps
    return jump_schedule(model, steps, "gamma", "gamma sampling")


def plan_gamma(model: ConsistencyModel, sigmas: Sequence[float] = (), gamma: float = GAMMA) -> Evaluations:
    """Fold the constants of gamma sampling; the last jump ends at sigma_min.

    Args:
        model: a consistency trajectory model.
        sigmas: levels evaluated, strictly descending, above sigma_min; none: as many as `exact` takes.
        gamma: 0 (no noise) to 1 (each jump ends at sigma_min).

    Raises:
        UsageError: another kind of model, levels out of order, or a gamma out of range.
    """
    require_jumps(model, "gamma")
    if not 0.0 <= gamma <= 1.0:
        raise UsageError(f"--gamma {gamma:g}: must lie between 0 and 1")
    noise = model.noise
    chosen = tuple(sigmas) or gamma_schedule(model, None, "generate", 0).sigmas
    evaluations: list[Evaluation] = []
    added = chosen[0]
    for sigma, end in descending_to(chosen, noise.sigma_min):
        target = math.sqrt(1.0 - gamma**2) * (end - noise.sigma_min) + noise.sigma_min
        scalings = ctm_between(sigma, target, noise)
        evaluations.append(Evaluation.at(model, sigma, added, scalings, c_noise_at(model.c_noise, target)))
        added = math.sqrt(max(end**2 - target**2, 0.0))
    drawn = gamma > 0.0
    return Evaluations(
        tuple(evaluations), renoise="gamma" if drawn else "none", clamp=model.clamp, renoises=drawn, noisy=True
    )
