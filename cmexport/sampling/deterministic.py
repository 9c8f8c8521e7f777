"""Samplers that add no noise: from one level straight to the next.

* CTM's exact sampler: x <- G(x, t, t'), the network is told where to jump (arXiv:2310.02279, algorithm 3, gamma 0).
* Euler steps of a velocity model (Consistency-FM) or of the probability-flow ODE:
  x <- (s'/s) x + (1 - s'/s) f(x, s). In the variables of EDM these two are the same formula: with x_t = t x and
  t = 1/(1+s), x_t + (t'-t) v is t' ((s'/s) x + (1 - s'/s) f).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel
from cmexport.sampling.preconditioning import c_noise_at, ctm_between, scalings_at


@dataclass(frozen=True)
class Jump:
    """One step with its scalars folded in float64: x <- keep x + add F(c_in x, c_noise[, c_noise_target])."""

    sigma: float
    target: float
    keep: float
    add: float
    c_in: float
    c_noise: float
    c_noise_target: float | None


def plan_jumps(model: ConsistencyModel, sigmas: Sequence[float]) -> tuple[Jump, ...]:
    """Fold the constants of a deterministic sampler.

    Args:
        model: supplies the preconditioning.
        sigmas: levels evaluated, strictly descending, above sigma_min. The last jump ends at sigma_min for `ctm` and at
            0, the picture itself, for every other form.

    Raises:
        UsageError: no levels, or levels out of order.
    """
    chosen = tuple(float(sigma) for sigma in sigmas)
    closing = model.noise.sigma_min if model.preconditioning == "ctm" else 0.0
    ends = (*chosen[1:], closing)
    if not chosen or any(not end < start < float("inf") for start, end in zip(chosen, ends, strict=True)):
        raise UsageError(f"sigmas {','.join(f'{s:g}' for s in chosen)}: levels must descend strictly to {closing:g}")
    jumps = []
    for sigma, target in zip(chosen, ends, strict=True):
        c_noise = c_noise_at(model.c_noise, sigma)
        if model.preconditioning == "ctm":
            step = ctm_between(sigma, target, model.noise)
            jumps.append(
                Jump(sigma, target, step.c_skip, step.c_out, step.c_in, c_noise, c_noise_at(model.c_noise, target))
            )
        else:
            step, kept = scalings_at(model.preconditioning, sigma, model.noise), target / sigma
            keep, add = kept + (1.0 - kept) * step.c_skip, (1.0 - kept) * step.c_out
            jumps.append(Jump(sigma, target, keep, add, step.c_in, c_noise, None))
    return tuple(jumps)


class DeterministicGraph(nn.Module):
    """K jumps as one module: `noise` (N, C, H, W) unit variance (and `label` (N,) int64) in, `image` out."""

    def __init__(self, model: ConsistencyModel, jumps: Sequence[Jump]) -> None:
        super().__init__()
        self.network = model.network
        self.jumps = tuple(jumps)
        self.clamp = model.clamp
        for index, jump in enumerate(self.jumps):
            self._constant(f"c_noise_{index}", jump.c_noise)
            if jump.c_noise_target is not None:
                self._constant(f"c_noise_target_{index}", jump.c_noise_target)

    def _constant(self, name: str, value: float) -> None:
        self.register_buffer(name, torch.tensor([value], dtype=torch.float64), persistent=False)

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        """Sample; (N, C, H, W) in, (N, C, H, W) in [-1, 1] out."""
        first = self.jumps[0]
        # As in SamplerGraph, unit noise meets sigma * constant; sigma alone (80) never reaches the graph.
        x = first.keep * first.sigma * noise + first.add * self._network(first.c_in * first.sigma * noise, 0, label)
        for index, jump in enumerate(self.jumps[1:], start=1):
            x = jump.keep * x + jump.add * self._network(jump.c_in * x, index, label)
        return x.clamp(-1.0, 1.0) if self.clamp else x

    def _network(self, x: Tensor, index: int, label: Tensor | None) -> Tensor:
        named = {} if label is None else {"label": label}
        if self.jumps[index].c_noise_target is not None:
            named["c_noise_target"] = self.get_buffer(f"c_noise_target_{index}")
        result: Tensor = self.network(x, self.get_buffer(f"c_noise_{index}"), **named)
        return result
