"""Samplers that add no noise: from one level straight to the next, x <- keep x + add F(c_in x, c_noise).

* `exact`: CTM's own, x <- G(x, t, t'); the network is told where to jump (arXiv:2310.02279, algorithm 3, gamma 0).
  Its other gammas are in `sampling.gamma`.
* `euler`: steps of a velocity model (Consistency-FM) or of the probability-flow ODE,
  x <- (s'/s) x + (1 - s'/s) f(x, s). In the variables of EDM these two are the same formula: with x_t = t x and
  t = 1/(1+s), x_t + (t'-t) v is t' ((s'/s) x + (1 - s'/s) f). For any consistency model it is the diffusion model that
  it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel
from cmexport.sampling.evaluations import Evaluation, Evaluations
from cmexport.sampling.preconditioning import Scalings, c_noise_at, ctm_between, scalings_at, stepped
from cmexport.sampling.schedules import Schedule, first_levels, steps_within

EXACT_STEPS = 2
"""Of CTM's own tables."""
EULER_STEPS = 18
"""As Heun's method takes levels, in half the evaluations."""
FLOW_STEPS = 6
"""Consistency-FM's tables end there."""

_VELOCITY_TIMES = frozenset({"flow", "999flow"})

Scalars = Callable[[float, float], tuple[Scalings, float | None]]
"""From a level and the next one to the step's scalings, and the second time of the network if it takes one."""


def exact_schedule(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    """Take the first K of K + 1 Karras levels, as in sony/ctm; the last jump ends at sigma_min.

    Raises:
        UsageError: K below 1 or beyond `MAX_STEPS`.
    """
    del task, editing_steps
    return jump_schedule(model, steps, "exact", "exact jumps")


def jump_schedule(model: ConsistencyModel, steps: int | None, sampler: str, called: str) -> Schedule:
    """Take the first K of K + 1 Karras levels, K = `EXACT_STEPS` if not said, for a sampler of CTM's.

    Raises:
        UsageError: K below 1 or beyond `MAX_STEPS`.
    """
    count = steps_within(sampler, EXACT_STEPS if steps is None else steps)
    return Schedule(first_levels(model.noise, count), f"the first {count} of {count + 1} Karras levels: {called}")


def euler_schedule(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    """Evenly spaced times of a velocity model, else the first K of K + 1 Karras levels; the last step ends at 0.

    Raises:
        UsageError: K below 1 or beyond `MAX_STEPS`.
    """
    del task, editing_steps
    velocity = model.c_noise in _VELOCITY_TIMES
    count = steps_within("euler", (FLOW_STEPS if velocity else EULER_STEPS) if steps is None else steps)
    if not velocity:
        return Schedule(first_levels(model.noise, count), f"the first {count} of {count + 1} Karras levels, then 0")
    # t = 1 / (1 + s) runs from nearly 0, pure noise, to 1, the picture.
    start = 1.0 / (1.0 + model.noise.sigma_max)
    times = [start + (1.0 - start) * i / count for i in range(count)]
    return Schedule(tuple((1.0 - t) / t for t in times), f"{count} evenly spaced times, then 0")


def plan_exact(model: ConsistencyModel, sigmas: Sequence[float] = ()) -> Evaluations:
    """Fold the constants of CTM's jumps; the last one ends at sigma_min.

    Args:
        model: a consistency trajectory model.
        sigmas: levels evaluated, strictly descending, above sigma_min; none: `EXACT_STEPS` of them.

    Raises:
        UsageError: another kind of model, or levels out of order.
    """
    require_jumps(model, "exact")

    def scalars(sigma: float, target: float) -> tuple[Scalings, float]:
        return ctm_between(sigma, target, model.noise), c_noise_at(model.c_noise, target)

    chosen = tuple(sigmas) or exact_schedule(model, None, "generate", 0).sigmas
    return _plan(model, chosen, model.noise.sigma_min, scalars)


def require_jumps(model: ConsistencyModel, sampler: str) -> None:
    """Refuse networks that are not told where to jump.

    Raises:
        UsageError: the model is one.
    """
    if model.preconditioning != "ctm":
        raise UsageError(
            f"--sampler {sampler}: only for networks that are told where to jump (CTM); others have --sampler euler"
        )


def plan_euler(model: ConsistencyModel, sigmas: Sequence[float] = ()) -> Evaluations:
    """Fold the constants of Euler steps; the last one ends at 0, the picture itself.

    A network that is told where to jump is told to stay: that is its diffusion model, g(x, t, t).

    Args:
        model: any.
        sigmas: levels evaluated, strictly descending, above 0; none: the default number of them.

    Raises:
        UsageError: levels out of order.
    """
    jumps = model.preconditioning == "ctm"

    def scalars(sigma: float, target: float) -> tuple[Scalings, float | None]:
        at = scalings_at("edm" if jumps else model.preconditioning, sigma, model.noise)
        return stepped(at, sigma, target), c_noise_at(model.c_noise, sigma) if jumps else None

    chosen = tuple(sigmas) or euler_schedule(model, None, "generate", 0).sigmas
    return _plan(model, chosen, 0.0, scalars)


def descending_to(sigmas: Sequence[float], closing: float) -> list[tuple[float, float]]:
    """Pair each level with the next one, the last with `closing`.

    Raises:
        UsageError: they don't descend strictly.
    """
    chosen = tuple(float(sigma) for sigma in sigmas)
    pairs = list(zip(chosen, (*chosen[1:], closing), strict=True))
    if any(not end < start < float("inf") for start, end in pairs):
        raise UsageError(f"sigmas {','.join(f'{s:g}' for s in chosen)}: levels must descend strictly to {closing:g}")
    return pairs


def _plan(model: ConsistencyModel, sigmas: Sequence[float], closing: float, scalars: Scalars) -> Evaluations:
    evaluations: list[Evaluation] = []
    for sigma, target in descending_to(sigmas, closing):
        evaluations.append(Evaluation.at(model, sigma, 0.0 if evaluations else sigma, *scalars(sigma, target)))
    return Evaluations(tuple(evaluations), renoise="none", clamp=model.clamp, renoises=False)
