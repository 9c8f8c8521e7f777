"""EDM's deterministic Heun sampler, diffusion beside one step (Karras et al. 2022, arXiv:2206.00364, algorithm 1).

From level s to the next one s', with D the model's picture: d = (x - D(x, s)) / s and x' = x + (s' - s) d (Euler);
where s' is not 0, d' = (x' - D(x', s')) / s' and x' = x + (s' - s) (d + d') / 2. N levels take 2 N - 1 evaluations.

D is linear in the sample and in the network's answer F, and so is a step. With z = x + (s' - s) d / 2 carried along,
every evaluation becomes the same five numbers, folded in float64:

    x <- keep x + carried z + add F,   z <- half_keep x + half_add F,   F = network(c_in x, c_noise)

and one loop body serves predictor, corrector and the last step alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel
from cmexport.sampling.evaluations import Evaluation, Evaluations, Move
from cmexport.sampling.preconditioning import scalings_at
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.samplers import Conditions, to_bytes
from cmexport.sampling.schedules import MAX_STEPS, Schedule, karras_levels, steps_within

HEUN_STEPS = 18
"""EDM's own choice for CIFAR-10 (its table 2): 35 evaluations."""


def heun_schedule(model: ConsistencyModel, steps: int = HEUN_STEPS) -> Schedule:
    """N Karras levels from sigma_max to sigma_min, then 0.

    Raises:
        UsageError: fewer than 2 or more than `MAX_STEPS`.
    """
    evaluations = 2 * steps_within("heun", steps, least=2) - 1
    return Schedule(
        karras_levels(model.noise, steps), f"{steps} Karras levels and 0: Heun's method, {evaluations} evaluations"
    )


def plan_heun(model: ConsistencyModel, sigmas: Sequence[float] = ()) -> Evaluations:
    """Fold the constants of Heun's method.

    Args:
        model: supplies preconditioning and noise range.
        sigmas: levels, strictly descending, inside [sigma_min, sigma_max], at least 2; the closing 0 is implied. Empty
            means `HEUN_STEPS` Karras levels.

    Raises:
        UsageError: too few or too many levels, out of order or out of range.
    """
    noise = model.noise
    chosen = tuple(float(s) for s in sigmas) or heun_schedule(model).sigmas
    shown = ",".join(f"{s:g}" for s in chosen)
    if not 2 <= len(chosen) <= MAX_STEPS:
        raise UsageError(f"sigmas {shown}: --sampler heun takes 2 to {MAX_STEPS} levels")
    if any(not later < earlier for earlier, later in pairwise(chosen)):
        raise UsageError(f"sigmas {shown}: levels must descend strictly, e.g. {noise.sigma_max:g},1.38")
    if not (0.0 < chosen[-1] >= noise.sigma_min * (1 - 1e-9) and chosen[0] <= noise.sigma_max * (1 + 1e-9)):
        raise UsageError(
            f"sigmas {shown}: every level must lie between sigma_min {noise.sigma_min:g} and sigma_max "
            f"{noise.sigma_max:g}; the closing 0 is added for you"
        )
    evaluations, moves = [Evaluation.at(model, chosen[0], chosen[0])], []
    for sigma, target in pairwise((*chosen, 0.0)):
        step = target - sigma
        keep, add = _slope(model, sigma)
        moves.append(Move(1 + step * keep, 0.0, step * add, 1 + step / 2 * keep, step / 2 * add))
        if target > 0.0:
            evaluations.extend([Evaluation.at(model, target, 0.0)] * 2)
            keep, add = _slope(model, target)
            moves.append(Move(step / 2 * keep, 1.0, step / 2 * add, 0.0, 0.0))
    return Evaluations(tuple(evaluations), renoise="none", clamp=model.clamp, moves=tuple(moves))


def _slope(model: ConsistencyModel, sigma: float) -> tuple[float, float]:
    """(x - D(x, sigma)) / sigma as factors of x and of F."""
    scalings = scalings_at(model.preconditioning, sigma, model.noise)
    return (1.0 - scalings.c_skip) / sigma, -scalings.c_out / sigma


class HeunSampler(nn.Module):
    """The PyTorch reference: `noise` (N, C, H, W) unit variance (and what conditions take) in, finished pictures out.

    Only the finished picture is clamped: a clamp in between would bend the curve that Heun's method follows.
    """

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        self.network = sampler.model.network
        self.plan = sampler.plan
        self.as_bytes = sampler.signature.output.is_bytes
        self.conditions = Conditions(sampler)

    def forward(self, noise: Tensor, **given: Tensor) -> Tensor:
        """Sample; (N, C, H, W) in [-1, 1] out, or (N, H, W, C) bytes for output "uint8"."""
        conditions = self.conditions(given, len(noise))
        x, z = self.plan.evaluations[0].sigma * noise, torch.zeros_like(noise)
        for evaluation, move in zip(self.plan.evaluations, self.plan.moves, strict=True):
            c_noise = torch.tensor([evaluation.c_noise], dtype=torch.float64, device=x.device)
            x, z = move.after(x, z, self.network(evaluation.c_in * x, c_noise, **conditions))
        x = x.clamp(-1.0, 1.0) if self.plan.clamp else x
        return to_bytes(x) if self.as_bytes else x
