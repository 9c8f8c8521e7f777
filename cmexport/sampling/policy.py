"""Sampling of a robot's actions as Consistency Policy does it (Prasad et al. 2024, arXiv:2405.07503).

`student/ctm_policy.py`, `conditional_sample`: the first sample is *unit* noise, which the network is told is at
sigma_max (`sample_inital_position` does not multiply it); every evaluation jumps to sigma_min and is clamped to
[-1, 1]; each further one starts at out + t z, at the levels of `chaining_times` in their order, which need not descend.
Finished actions are un-normalized, a = (y - offset) / scale for each of their numbers (`LinearNormalizer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, Policy
from cmexport.sampling.evaluations import Evaluation, Evaluations
from cmexport.sampling.schedules import Schedule
from cmexport.signature import Output

QUANTITY, UNIT = "actions", "units of the demonstrations"


def policy_schedule(policy: Policy, model: ConsistencyModel, steps: int) -> Schedule:
    """Take the first K of sigma_max and the levels that the policy chains at.

    Raises:
        UsageError: it has fewer.
    """
    levels = (model.noise.sigma_max, *policy.chain)
    if not 1 <= steps <= len(levels):
        raise UsageError(
            f"--steps {steps}: this policy chains at {len(levels) - 1} levels, so that it takes 1 to {len(levels)}; "
            "--sigmas names others"
        )
    return Schedule(levels[:steps], f"the first {steps} of sigma_max and the policy's chaining times")


def plan_policy(model: ConsistencyModel, sigmas: Sequence[float] = ()) -> Evaluations:
    """Fold the constants of an initial evaluation and of those chained to it.

    Args:
        model: a policy.
        sigmas: levels evaluated, each above sigma_min and at most sigma_max, in any order; none: sigma_max alone.

    Raises:
        UsageError: a level out of range, or twice.
    """
    noise = model.noise
    chosen = tuple(float(s) for s in sigmas) or (noise.sigma_max,)
    shown = ",".join(f"{s:g}" for s in chosen)
    if not all(noise.sigma_min < s <= noise.sigma_max * (1 + 1e-9) for s in chosen):
        raise UsageError(
            f"sigmas {shown}: every level must lie above sigma_min {noise.sigma_min:g} and at most at sigma_max "
            f"{noise.sigma_max:g}"
        )
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"sigmas {shown}: a level comes twice")
    evaluations = [Evaluation.at(model, sigma, sigma if index else 1.0) for index, sigma in enumerate(chosen)]
    return Evaluations(tuple(evaluations), renoise=model.renoise, clamp=model.clamp)


class _Unnormalize(nn.Module):
    """y in [-1, 1], (N, 1, T, D), to actions: factors and shifts by column, folded in float64."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        scale = torch.tensor(policy.scale, dtype=torch.float64)
        offset = torch.tensor(policy.offset, dtype=torch.float64)
        self.register_buffer("factor", (1.0 / scale).float(), persistent=False)
        self.register_buffer("shift", (-offset / scale).float(), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Multiply and shift each column."""
        return y * self.get_buffer("factor") + self.get_buffer("shift")


@dataclass(frozen=True)
class Unnormalization:
    """The un-normalization of actions as an output transform; see `sampling.transforms.OutputTransform`.

    Attributes:
        policy: supplies scale and offset.
    """

    policy: Policy
    slope = 1.0
    quantity, unit = QUANTITY, UNIT
    formula = "(y - offset) / scale, by column"

    def module(self) -> nn.Module:
        """Return what computes it."""
        return _Unnormalize(self.policy)

    def output(self, shown: Output) -> Output:
        """Return the border's output after it: each column has a range of its own."""
        columns = tuple(
            sorted(((-1.0 - offset) / scale, (1.0 - offset) / scale))
            for scale, offset in zip(self.policy.scale, self.policy.offset, strict=True)
        )
        ranges = tuple((low, high) for low, high in columns)
        whole = (min(low for low, _ in ranges), max(high for _, high in ranges))
        said = f"{QUANTITY} in {UNIT}, (N, 1, T, D): row t is the action at point t of the horizon"
        return replace(shown, name=QUANTITY, range=whole, columns=ranges, meaning=said)
