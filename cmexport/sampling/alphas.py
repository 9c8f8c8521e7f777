"""Plans of latent few-step models: LCM, TCD and Euler's steps, in variance-exploding variables.

With y = x / sqrt(a) and sigma = sqrt((1 - a) / a) (see `cmexport.alphas`), the network gives x0 = A y + B F(c_in y, t):

* epsilon: A = 1, B = -sigma;  * sample: A = 0, B = 1;  * v: A = a, B = -sqrt(1 - a).

Every step is linear, y' = p x0 + q y, and so one c_skip = p A + q and one c_out = p B; then noise is added:

* LCM (Luo et al. 2023, arXiv:2310.04378; diffusers scheduling_lcm.py): p = c_out(t), q = c_skip(t) sqrt(a), noise
  sigma'. The last step gives the mix itself.
* TCD (Zheng et al. 2024, arXiv:2402.19159; scheduling_tcd.py): down to s = floor((1 - eta) t'), q = sigma_s / sigma,
  p = 1 - q, then up to t' with noise sqrt(sigma'^2 - sigma_s^2). The last one ends at timestep 0, and x, not y, is the
  picture: sqrt(a_0) more.
* Euler (scheduling_euler_discrete.py): q = sigma' / sigma, p = 1 - q, no noise; ends at 0.
* ancestral Euler (scheduling_euler_ancestral_discrete.py): q = sigma'^2 / sigma^2, p = 1 - q, noise
  sigma' sqrt(1 - sigma'^2 / sigma^2); ends at 0.

LCM and TCD start at x = z, so y = z / sqrt(a) = sqrt(1 + sigma^2) z; Euler at y = sigma z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch

from cmexport.alphas import AlphaSchedule
from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, NoiseRange
from cmexport.sampling.evaluations import Evaluation, Evaluations

_Step = Callable[[AlphaSchedule, int, int | None, float], tuple[float, float, float]]
"""From a timestep, the next one (None: that was the last) and eta to p, q and the noise added afterwards."""


def noise_range(schedule: AlphaSchedule) -> NoiseRange:
    """Return the levels that the network knows; rho is Karras' and has no use here."""
    return NoiseRange(schedule.sigmas[0], schedule.sigmas[-1], schedule.sigma_data, 7.0, schedule.train_steps)


def tcd_of(model: ConsistencyModel) -> AlphaSchedule:
    """Return the schedule of a model for TCD's steps, whatever its own are.

    Raises:
        UsageError: its levels are no table.
    """
    if model.schedule is None:
        raise UsageError("--sampler tcd: only for latent few-step models, whose levels are timesteps")
    return replace(model.schedule, kind="tcd")


def plan_alphas(schedule: AlphaSchedule, timesteps: Sequence[int] = (), eta: float | None = None) -> Evaluations:
    """Fold the constants of a few-step scheduler.

    Args:
        schedule: its table and rules.
        timesteps: evaluated, descending; none: the scheduler's own for `default_steps`.
        eta: TCD's stochasticity instead of the schedule's.

    Raises:
        UsageError: timesteps out of range or order; an eta of another scheduler, or beyond 0 to 1.
    """
    if eta is not None and schedule.kind != "tcd":
        raise UsageError(f"--eta {eta:g}: only --sampler tcd has one; this model's own is {schedule.title}")
    eta = schedule.eta if eta is None else eta
    if not 0.0 <= eta <= 1.0:
        raise UsageError(f"--eta {eta:g}: must lie between 0 and 1")
    times = schedule.check_timesteps(timesteps or schedule.timesteps(schedule.default_steps))
    clip = schedule.clip if schedule.kind == "lcm" else None
    sigma = schedule.sigma_of(times[0])
    noise_std = sigma if schedule.kind in ("euler", "euler_ancestral") else math.hypot(1.0, sigma)
    evaluations = []
    for t, following in zip(times, (*times[1:], None), strict=True):
        a, b = _predicted(schedule, t)
        p, q, added = _STEPS[schedule.kind](schedule, t, following, eta)
        folded = (p * a + q, p * b) if clip is None else (a, b)
        c_in = math.sqrt(schedule.alphas_cumprod[t])
        mix = None if clip is None else (p, q)
        evaluations.append(Evaluation(schedule.sigma_of(t), *folded, c_in, float(t), noise_std, mix=mix))
        noise_std = added
    drawn = schedule.kind in ("lcm", "euler_ancestral") or (schedule.kind == "tcd" and eta > 0.0)
    renoise = schedule.kind if drawn else "none"
    return Evaluations(tuple(evaluations), renoise, clamp=False, renoises=drawn, clip=clip)


def _predicted(schedule: AlphaSchedule, t: int) -> tuple[float, float]:
    """Return A and B of x0 = A y + B F."""
    alpha = schedule.alphas_cumprod[t]
    return {
        "epsilon": (1.0, -schedule.sigma_of(t)),
        "sample": (0.0, 1.0),
        "v_prediction": (alpha, -math.sqrt(1.0 - alpha)),
    }[schedule.prediction]


def _lcm(schedule: AlphaSchedule, t: int, following: int | None, eta: float) -> tuple[float, float, float]:  # noqa: ARG001
    scaled, data = t * schedule.timestep_scaling, schedule.sigma_data
    variance = scaled**2 + data**2
    kept = data**2 / variance * math.sqrt(schedule.alphas_cumprod[t])
    return scaled / math.sqrt(variance), kept, 0.0 if following is None else schedule.sigma_of(following)


def _tcd(schedule: AlphaSchedule, t: int, following: int | None, eta: float) -> tuple[float, float, float]:
    ending = following or 0
    # As diffusers: a Python float times a whole number is float32 there, and floor() can tell.
    down = schedule.sigma_of(int(torch.floor((1.0 - eta) * torch.tensor(ending))))
    q = down / schedule.sigma_of(t)
    if following is None:
        scale = math.sqrt(schedule.alphas_cumprod[0])
        return scale * (1.0 - q), scale * q, 0.0
    return 1.0 - q, q, math.sqrt(max(schedule.sigma_of(ending) ** 2 - down**2, 0.0))


def _euler(schedule: AlphaSchedule, t: int, following: int | None, eta: float) -> tuple[float, float, float]:  # noqa: ARG001
    q = 0.0 if following is None else schedule.sigma_of(following) / schedule.sigma_of(t)
    return 1.0 - q, q, 0.0


def _euler_ancestral(schedule: AlphaSchedule, t: int, following: int | None, eta: float) -> tuple[float, float, float]:
    ratio = _euler(schedule, t, following, eta)[1]
    added = 0.0 if following is None else schedule.sigma_of(following) * math.sqrt(1.0 - ratio**2)
    return 1.0 - ratio**2, ratio**2, added


_STEPS: Mapping[str, _Step] = MappingProxyType(
    {"lcm": _lcm, "tcd": _tcd, "euler": _euler, "euler_ancestral": _euler_ancestral}
)
