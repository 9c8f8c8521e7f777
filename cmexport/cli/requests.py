"""From option texts to loaded models and requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmexport.alphas import AlphaSchedule
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.choosing import SETTING as WEIGHTS
from cmexport.cli import console
from cmexport.cli.assumed import tell_assumed
from cmexport.cli.options import PROJECT_FILE, ScheduleText, parse_set, read_project
from cmexport.demo import demo_checkpoint
from cmexport.errors import UsageError
from cmexport.labels import number_of
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.editing import task_named
from cmexport.sampling.methods import method_named, schedule_of_strength
from cmexport.sampling.schedules import EDITING_STEPS, EXPORTED_EDITING_STEPS, Schedule, sigmas_at
from cmexport.tokenizer import read_prompts
from cmexport.verification import VerifyOptions

LevelsOf = Callable[[ConsistencyModel], Sequence[tuple[float, ...]]]
"""The noise levels that a command evaluates with a model, for each of its tasks."""


def chosen_checkpoint(checkpoint: str | None, demo: str | None) -> str | None:
    """Return the checkpoint that a command names, in one of two ways; None where it names none.

    Raises:
        UsageError: both, or no such demo.
    """
    if demo is None:
        return checkpoint
    if checkpoint is not None:
        raise UsageError(f"{checkpoint} and --demo {demo} contradict each other")
    return str(demo_checkpoint(demo))


def open_checkpoint(
    checkpoint: str | None,
    assignments: Sequence[str] | None,
    *,
    trust: bool = False,
    weights: str | None = None,
    strict: bool = False,
    levels_of: LevelsOf | None = None,
) -> ConsistencyModel:
    """Load the checkpoint a command names, or the project's, or the demo; the latter two are said on stderr.

    What is guessed of it is said there too. `levels_of` gives the noise levels that the command evaluates: the number N
    that the model was trained on is no guess that matters where these don't depend on it.

    Raises:
        CheckpointError: see `load_checkpoint`; `strict`, and there is a guess.
    """
    overrides = parse_set(assignments)
    if checkpoint is not None:
        model = said_aloud(load_checkpoint(checkpoint, overrides, trust=trust, weights=weights))
    elif (project := read_project(Path())).checkpoint is not None:
        console.remark(f"no checkpoint given: using {project.checkpoint} from {PROJECT_FILE}")
        known = {**project.overrides, **overrides}
        chosen = weights or project.weights
        model = said_aloud(load_checkpoint(project.checkpoint, known, trust=trust, weights=chosen))
    else:
        console.remark(
            "no checkpoint given: using the demo model that ships with cmexport (CIFAR-10, 32x32, 10 classes)"
        )
        model = load_checkpoint(demo_checkpoint(), overrides, weights=weights)
    idle = ("levels",) if strict and levels_of is not None and _levels_idle(model, levels_of) else ()
    tell_assumed(model, strict=strict, idle=idle)
    return model


def _levels_idle(model: ConsistencyModel, levels_of: LevelsOf) -> bool:
    """Whether another N would give the same noise levels."""
    noise, own = model.noise, levels_of(model)
    others = [replace(model, noise=replace(noise, levels=n)) for n in (noise.levels + 1, 2 * noise.levels)]
    return all(levels_of(other) == own for other in others)


def said_aloud(model: ConsistencyModel) -> ConsistencyModel:
    """The model itself; which of several sets of weights was taken is said on stderr, unless `--weights` asked for it.

    A remark and not a table: it is one line, and `--json` keeps stdout to itself.
    """
    for setting in model.settings:
        if setting.name == WEIGHTS and not setting.origin.startswith("--weights"):
            console.remark(
                f"{model.source.path}: takes the weights '{setting.value}' ({setting.origin}); --weights NAME chooses"
            )
    return model


def resolve_schedule(
    model: ConsistencyModel,
    schedule: ScheduleText,
    task: str = "generate",
    tuned: Sequence[float] = (),
    editing_steps: int = EDITING_STEPS,
    sampler: str = "consistency",
) -> Schedule:
    """The levels a schedule means, and how they were chosen.

    Args:
        model: supplies the noise range and the release's name.
        schedule: as typed.
        task: decides where sampling starts when no levels are given.
        tuned: levels from the project file; used for task "generate" where the number of steps is not said or the same.
        editing_steps: see `default_schedule`.
        sampler: key into `sampling.methods.METHODS`.

    Raises:
        UsageError: two forms at once, text that is no number, or an impossible schedule; also see `method_named`.
    """
    method = method_named(sampler, task)
    given = [n for n in ("steps", "timesteps", "sigmas") if getattr(schedule, n) is not None]
    if len(given) > 1:
        raise UsageError(f"give one schedule: --{given[0]} and --{given[1]} contradict each other")
    if schedule.levels is not None and schedule.timesteps is None:
        raise UsageError("--levels only says what --timesteps counts in; for the model's own N use --set levels=N")
    if schedule.strength is not None and task != "generate":
        if given not in ([], ["steps"]):
            raise UsageError(f"--strength and --{given[0]} contradict each other: both say where to start")
        return schedule_of_strength(model, sampler, schedule.steps, task, schedule.strength)
    if model.schedule is not None and (schedule.sigmas or schedule.timesteps) is not None:
        return _of_table(model.schedule, schedule, method.ending)
    if schedule.sigmas is not None:
        return Schedule(tuple(_numbers("--sigmas", schedule.sigmas, float)), f"--sigmas{method.ending}")
    if schedule.timesteps is not None:
        indices = tuple(_numbers("--timesteps", schedule.timesteps, int))
        levels = schedule.levels or model.noise.levels
        origin = f"--timesteps {schedule.timesteps} of {levels} levels{method.ending}"
        return Schedule(sigmas_at(model.noise, indices, levels), origin)
    if tuned and method.tuned and task == "generate" and schedule.steps in (None, len(tuned)):
        return Schedule(tuple(tuned), f"tuned, from {PROJECT_FILE}")
    return method.spaced(model, schedule.steps, task, editing_steps)


def _of_table(table: AlphaSchedule, schedule: ScheduleText, ending: str) -> Schedule:
    """Levels of a model whose network knows timesteps; `--sigmas` mean the nearest of them."""
    if schedule.levels is not None:
        raise UsageError("--levels: this model's --timesteps are its network's own, e.g. --timesteps 999,499")
    if schedule.sigmas is not None:
        timesteps = [table.timestep_of(sigma) for sigma in _numbers("--sigmas", schedule.sigmas, float)]
        origin = f"--sigmas, the nearest timesteps {','.join(map(str, timesteps))}{ending}"
    else:
        assert schedule.timesteps is not None
        timesteps = _numbers("--timesteps", schedule.timesteps, int)
        origin = f"--timesteps {schedule.timesteps}{ending}"
    return Schedule(tuple(table.sigma_of(t) for t in table.check_timesteps(timesteps)), origin)


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text}: comma-separated numbers are expected, e.g. {option} "
            f"{'80,1.38' if kind is float else '22,0'}"
        ) from None


def build_request(
    model: ConsistencyModel,
    schedule: ScheduleText,
    label: str | None,
    batch: int,
    output: str,
    *,
    task: str = "generate",
    patch: int | None = None,
    tuned: Sequence[float] = (),
    editing_steps: int = EDITING_STEPS,
    sampler: str = "consistency",
    worded: Mapping[str, Any] = MappingProxyType({}),
) -> SampleRequest:
    """The request behind the options; `worded` is from `wording`.

    Raises:
        UsageError: an unknown output form, task or sampler, or an impossible schedule.
    """
    if output not in ("float", "uint8"):
        raise UsageError(f"--output {output}: known are float and uint8")
    task_named(task)
    chosen = resolve_schedule(model, schedule, task, tuned, editing_steps, sampler)
    if chosen.origin.startswith("tuned"):
        console.remark(f"sigmas {', '.join(f'{s:.7g}' for s in chosen.sigmas)}: {chosen.origin}")
    return SampleRequest(
        sigmas=chosen.sigmas,
        label=None if label is None else number_of(label, model.labels, model.classes),
        batch=batch,
        output=output,
        task=task,
        patch=patch,
        schedule=chosen.origin,
        sampler=sampler,
        **worded,
    )


def wording(
    prompt: str | None = None,
    prompts: Path | None = None,
    condition: str = SampleRequest.condition,
    guidance: float | None = None,
    guidance_input: bool = False,
    calibration_prompts: Path | None = None,
) -> dict[str, Any]:
    """What a request says of prompts and guidance.

    Raises:
        UsageError: two forms at once, or a file holds no prompt.
    """
    if prompt is not None and prompts is not None:
        raise UsageError("--prompt and --prompts contradict each other: one prompt is baked in, or a list")
    return {
        "prompt": prompt,
        "prompts": () if prompts is None else read_prompts(prompts),
        "condition": condition,
        "guidance": guidance,
        "guidance_input": guidance_input,
        "calibration_prompts": () if calibration_prompts is None else read_prompts(calibration_prompts),
    }


def listed_levels(texts: Sequence[str] | None) -> dict[str, int]:
    """Read `--levels-of INPUT=N`.

    Raises:
        UsageError: no name and whole number.
    """
    listed = {}
    for text in texts or ():
        name, equals, number = text.partition("=")
        if not equals or not name or not number.isdecimal():
            raise UsageError(f"--levels-of {text}: an input and a number are expected, e.g. --levels-of difficulty=100")
        listed[name] = int(number)
    return listed


def levels_asked(
    *schedules: ScheduleText,
    tasks: str,
    tuned: Sequence[float] = (),
    editing_steps: int = EXPORTED_EDITING_STEPS,
    sampler: str = "consistency",
) -> LevelsOf:
    """What the same arguments of `build_requests` evaluate, as a function of the model.

    The function raises UsageError as `build_request` does.
    """
    names = _task_names(tasks)
    pairs = [(schedule, name) for schedule in schedules for name in names]
    return lambda model: [resolve_schedule(model, s, n, tuned, editing_steps, sampler).sigmas for s, n in pairs]


def _task_names(tasks: str) -> list[str]:
    return [name.strip() for name in tasks.split(",")]


def build_requests(
    model: ConsistencyModel,
    schedules: Sequence[ScheduleText],
    label: str | None,
    batch: int,
    output: str,
    *,
    tasks: str,
    patch: int | None = None,
    tuned: Sequence[float] = (),
    sampler: str = "consistency",
    worded: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[SampleRequest, ...]:
    """The requests behind the options of an exporting verb: one per schedule and task of a comma-separated list.

    A schedule means the same for each task as if it were alone; `patch` is for "superres" where that is among several.

    Raises:
        UsageError: see `build_request`.
    """
    names = _task_names(tasks)
    return tuple(
        build_request(
            *(model, schedule, label, batch, output),
            task=name,
            patch=patch if name == "superres" or "superres" not in names else None,
            tuned=tuned,
            editing_steps=EXPORTED_EDITING_STEPS,
            sampler=sampler,
            worded=worded,
        )
        for schedule in schedules
        for name in names
    )


def tuned_sigmas(checkpoint: str | None) -> tuple[float, ...]:
    """Levels that `cmexport tune` left in the project file, for the checkpoint that is used when none is named."""
    return () if checkpoint is not None else read_project(Path()).sigmas


def verify_options(seeds: int | None) -> VerifyOptions:
    """How much to verify: an explicit `--seeds` is kept whatever it takes.

    Raises:
        UsageError: fewer than 8.
    """
    if seeds is None:
        return VerifyOptions()
    if seeds < 8:
        raise UsageError(f"--seeds {seeds}: at least 8 pictures are compared; --no-verify skips the comparison")
    return VerifyOptions(pictures=seeds, large_model_budget_s=None)
