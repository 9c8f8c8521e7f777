"""Noise schedules: Karras levels, how requests choose among them, and the plan of a K-step sampler."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

from cmexport.alphas import AlphaSchedule
from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, NoiseRange
from cmexport.sampling.alphas import plan_alphas
from cmexport.sampling.evaluations import Evaluation, Evaluations

RENOISE_RULES: Mapping[str, Callable[[float, NoiseRange], float]] = MappingProxyType(
    {
        # Song et al. 2023, algorithm 1: x + sqrt(tau^2 - eps^2) z.
        "cm": lambda sigma, noise: math.sqrt(max(sigma**2 - noise.sigma_min**2, 0.0)),
        # locuslab/ect ct_eval.py generator_fn: x + tau z.
        "ect": lambda sigma, _noise: sigma,
    }
)


def karras_levels(noise: NoiseRange, levels: int) -> tuple[float, ...]:
    """Return the N discrete levels, descending from sigma_max (index 0) to sigma_min (index N-1).

    sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
    (Karras et al. 2022, eq. 5).

    Raises:
        UsageError: fewer than two levels.
    """
    if levels < 2:
        raise UsageError(f"--levels {levels}: a schedule needs at least 2 levels")
    top, bottom = noise.sigma_max ** (1 / noise.rho), noise.sigma_min ** (1 / noise.rho)
    inner = [(top + i / (levels - 1) * (bottom - top)) ** noise.rho for i in range(1, levels - 1)]
    return (noise.sigma_max, *inner, noise.sigma_min)


def sigmas_at(noise: NoiseRange, timesteps: Sequence[int], levels: int) -> tuple[float, ...]:
    """Noise levels of diffusers' `timesteps`: indices counted from sigma_min, so N-1 is sigma_max and 0 is sigma_min.

    `ConsistencyModelPipeline(timesteps=[22, 0])` with 40 levels means OpenAI's `ts=0,22,39`: diffusers turns the list
    into indices into its descending sigmas. As there, the first evaluation is always at sigma_max, written as 0.

    Args:
        noise: the trained range.
        timesteps: descending, ending in 0, e.g. (22, 0).
        levels: N of the schedule.

    Raises:
        UsageError: an index out of range, or a list that does not descend to 0.
    """
    shown = ",".join(map(str, timesteps))
    if any(later >= earlier for earlier, later in pairwise(timesteps)):
        raise UsageError(f"--timesteps {shown}: must descend, as in diffusers; e.g. 22,0 with --levels 40")
    if not timesteps or timesteps[-1] != 0 or timesteps[0] > levels - 2:
        raise UsageError(f"--timesteps {shown}: must end in 0 and lie below {levels - 1} with --levels {levels}")
    table = karras_levels(noise, levels)
    return tuple(sorted((table[t] for t in timesteps), reverse=True))


@dataclass(frozen=True)
class Schedule:
    """Levels to evaluate, descending (empty: one step at sigma_max), and how they were chosen, in words."""

    sigmas: tuple[float, ...]
    origin: str


@dataclass(frozen=True)
class TunedSchedule:
    """Two steps that a release was tuned for: OpenAI's `ts=0,index,N-1` of `levels` = N."""

    index: int
    levels: int


# openai/consistency_models scripts/launch.sh; FID ternary search of its authors (Song et al. 2023, appendix).
TUNED_TWO_STEPS: Mapping[str, TunedSchedule] = MappingProxyType(
    {
        "cd_imagenet64_l2": TunedSchedule(22, 40),
        "cd_imagenet64_lpips": TunedSchedule(22, 40),
        "cd_bedroom256_lpips": TunedSchedule(17, 40),
        "cd_bedroom256_l2": TunedSchedule(18, 40),
        "ct_imagenet64": TunedSchedule(106, 201),
        "ct_bedroom256": TunedSchedule(67, 151),
        "ct_cat256": TunedSchedule(62, 151),
    }
)

# Stroke-guided pictures of the paper start at 5.38 and evaluate again at 2.24 (Song et al. 2023, appendix D): levels
# 16 and 20 of 40, kept as fractions of the range for models with other levels.
_STROKE_FRACTIONS = (16 / 39, 20 / 39)

MAX_STEPS = 200
"""Every step is unrolled; ImageNet-64's own schedule has 200."""

EDITING_STEPS = 39
"""As the paper and OpenAI's notebook edit; on CIFAR-10, 13 steps still leave colours that don't fit."""
EXPORTED_EDITING_STEPS = 8
"""A graph holds every step: 39 take minutes to export and 39 times as long to run, which is for the user to ask for."""


def tuned_two_steps(name: str, noise: NoiseRange) -> tuple[str, tuple[float, ...]] | None:
    """Return the tuned two-step levels of a released checkpoint, with the release's name; None for any other.

    Args:
        name: file or folder name of the checkpoint; `cd_imagenet64_l2.pt` and `diffusers-cd_imagenet64_l2` both count.
        noise: the model's range; with another N than the release's the name is not believed.
    """
    # The longest name first: ct_imagenet64 must not claim a future ct_imagenet64_l2.
    for release in sorted(TUNED_TWO_STEPS, key=len, reverse=True):
        tuned = TUNED_TWO_STEPS[release]
        if re.search(rf"(?<![a-z0-9]){release}(?![a-z0-9_])", name.lower()) and noise.levels == tuned.levels:
            return release, (noise.sigma_max, karras_levels(noise, tuned.levels)[tuned.index])
    return None


def schedule_for_steps(model: ConsistencyModel, steps: int, task: str = "generate") -> Schedule:
    """Choose the levels of `--steps K`.

    Generating takes the tuned levels of a release that is known to have them, else diffusers' spacing of the model's N
    levels. Editing, and more steps than the model has levels, takes the first K of K + 1 Karras levels: diffusers'
    stride N // K would leave out the lower levels (of 18, 13 steps end at sigma 0.4). "stroke" starts at 5.38 of 80.
    A model with a table of levels takes its scheduler's timesteps.

    Raises:
        UsageError: K below 1 or beyond `MAX_STEPS`.
    """
    noise = model.noise
    if not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"--steps {steps}: must lie between 1 and {MAX_STEPS}")
    if model.schedule is not None:
        return table_schedule(model.schedule, steps, task)
    if task == "stroke":
        return _stroke_schedule(noise, steps)
    if task != "generate" or steps >= noise.levels:
        return Schedule(first_levels(noise, steps), f"the first {steps} of {steps + 1} Karras levels")
    if steps == 2:
        tuned = tuned_two_steps(model.source.name, noise)
        if tuned is not None:
            return Schedule(tuned[1], f"tuned two-step schedule of {tuned[0]}")
    return Schedule(sigmas_for_steps(noise, steps), f"{steps} evenly spaced of {noise.levels} levels, as diffusers")


STRENGTH = 0.8
"""Of a picture, how much image to image paints anew: default of diffusers' pipelines. Inpainting has 1."""


def table_schedule(
    schedule: AlphaSchedule, steps: int | None = None, task: str = "generate", strength: float | None = None
) -> Schedule:
    """Take the scheduler's own timesteps for K evaluations.

    Args:
        schedule: its table and rules.
        steps: K; None: its default.
        task: "stroke" starts below the last timestep where `strength` doesn't say otherwise.
        strength: see `AlphaSchedule.timesteps`.

    Raises:
        UsageError: see `AlphaSchedule.timesteps`.
    """
    if strength is None:
        strength = STRENGTH if task == "stroke" else 1.0
    count = schedule.default_steps if steps is None else steps
    if steps is None and strength > 0.0:
        # Euler's pipelines skip steps: one is left of 1 / strength.
        count = max(count, math.ceil(1.0 / strength) if schedule.default_steps == 1 else 0)
    chosen = schedule.timesteps(count, strength)
    part = "" if strength == 1.0 else f" at strength {strength:g}"
    return Schedule(tuple(map(schedule.sigma_of, chosen)), schedule.account(chosen) + part)


def default_schedule(model: ConsistencyModel, task: str, editing_steps: int = EDITING_STEPS) -> Schedule:
    """Levels when the user names none.

    Args:
        model: supplies the noise range.
        task: decides.
        editing_steps: K for "inpaint", "colorize" and "superres".

    Raises:
        UsageError: task "denoise", whose level only the user knows.
    """
    if task == "denoise":
        raise UsageError("--task denoise: say how noisy the picture is, e.g. --sigmas 0.5 (pictures span -1 to 1)")
    if model.schedule is not None:
        return table_schedule(model.schedule, None, task)
    if task == "generate":
        return Schedule((), "one step at sigma_max")
    return schedule_for_steps(model, 2 if task == "stroke" else editing_steps, task)


def steps_within(sampler: str, steps: int, least: int = 1) -> int:
    """Return `steps` if the sampler takes as many.

    Raises:
        UsageError: it does not.
    """
    if not least <= steps <= MAX_STEPS:
        raise UsageError(f"--steps {steps}: with --sampler {sampler} it must lie between {least} and {MAX_STEPS}")
    return steps


def first_levels(noise: NoiseRange, count: int) -> tuple[float, ...]:
    """Take the first `count` of one more Karras levels: sigma_min, the last, is not among them."""
    return _spread(noise, 0.0, count)


def _stroke_schedule(noise: NoiseRange, steps: int) -> Schedule:
    if steps <= 2:
        levels = tuple(_level_at(noise, fraction) for fraction in _STROKE_FRACTIONS)
        return Schedule(levels[:steps], "stroke-guided levels of the paper")
    levels = _spread(noise, _STROKE_FRACTIONS[0], steps)
    return Schedule(levels, f"{steps} Karras levels from {levels[0]:.3g} down")


def _spread(noise: NoiseRange, first: float, steps: int) -> tuple[float, ...]:
    """K levels from a fraction of the range on, in equal parts of what is left; the closing sigma_min is not one."""
    return tuple(_level_at(noise, first + (1.0 - first) * i / steps) for i in range(steps))


def _level_at(noise: NoiseRange, fraction: float) -> float:
    """Level at a fraction of the way from sigma_max (0) to sigma_min (1)."""
    if fraction == 0.0:
        return noise.sigma_max
    top, bottom = noise.sigma_max ** (1 / noise.rho), noise.sigma_min ** (1 / noise.rho)
    return float((top + fraction * (bottom - top)) ** noise.rho)


def sigmas_for_steps(noise: NoiseRange, steps: int) -> tuple[float, ...]:
    """K evenly spaced indices, as diffusers' `num_inference_steps=K`: stride N // K from sigma_max.

    Raises:
        UsageError: K outside 1 .. N-1.
    """
    if not 1 <= steps <= noise.levels - 1:
        raise UsageError(
            f"--steps {steps}: must lie between 1 and {noise.levels - 1} (this model has {noise.levels} levels)"
        )
    stride = noise.levels // steps
    table = karras_levels(noise, noise.levels)
    return tuple(table[i * stride] for i in range(steps))


def plan_sampling(model: ConsistencyModel, sigmas: Sequence[float] = (), eta: float | None = None) -> Evaluations:
    """Resolve the levels to evaluate into a plan of float64 constants.

    Args:
        model: supplies the preconditioning, the noise range and the renoise rule.
        sigmas: levels evaluated, strictly descending, inside (sigma_min, sigma_max]; empty means one step at
            sigma_max. The closing level sigma_min is implied: its renoise is exactly zero. Of a model with a table they
            mean the nearest timesteps, empty the scheduler's own.
        eta: stochasticity of a model whose scheduler is TCD; None: its own.

    Raises:
        UsageError: levels out of order or out of range, or an unknown rule.
    """
    if model.schedule is not None:
        return plan_alphas(model.schedule, [model.schedule.timestep_of(sigma) for sigma in sigmas], eta)
    noise = model.noise
    chosen = tuple(float(s) for s in sigmas) or (noise.sigma_max,)
    if model.renoise not in RENOISE_RULES:
        raise UsageError(f"unknown renoise rule '{model.renoise}'; known: {', '.join(RENOISE_RULES)}")
    shown = ",".join(f"{s:g}" for s in chosen)
    if not all(math.isfinite(s) and noise.sigma_min < s <= noise.sigma_max * (1 + 1e-9) for s in chosen):
        raise UsageError(
            f"sigmas {shown}: every level must lie above sigma_min {noise.sigma_min:g} and at most at sigma_max "
            f"{noise.sigma_max:g}; the closing sigma_min is added for you"
        )
    if any(later >= earlier for earlier, later in pairwise(chosen)):
        raise UsageError(f"sigmas {shown}: levels must descend strictly, e.g. {noise.sigma_max:g},1.38")
    evaluations = [
        Evaluation.at(model, sigma, sigma if index == 0 else RENOISE_RULES[model.renoise](sigma, noise))
        for index, sigma in enumerate(chosen)
    ]
    return Evaluations(evaluations=tuple(evaluations), renoise=model.renoise, clamp=model.clamp)
