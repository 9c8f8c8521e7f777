"""From option texts to loaded models and requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmexport.checkpoints import load_checkpoint
from cmexport.cli import console
from cmexport.cli.options import PROJECT_FILE, ScheduleText, parse_set, read_project
from cmexport.demo import demo_checkpoint
from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.schedules import sigmas_at, sigmas_for_steps
from cmexport.verification import VerifyOptions


def open_checkpoint(checkpoint: str | None, assignments: Sequence[str] | None) -> ConsistencyModel:
    """Load the checkpoint a command names, or the project's, or the demo; the latter two are said on stderr."""
    overrides = parse_set(assignments)
    if checkpoint is not None:
        return load_checkpoint(checkpoint, overrides)
    project = read_project(Path())
    if project.checkpoint is not None:
        console.remark(f"no checkpoint given: using {project.checkpoint} from {PROJECT_FILE}")
        return load_checkpoint(project.checkpoint, {**project.overrides, **overrides})
    console.remark("no checkpoint given: using the demo model that ships with cmexport (CIFAR-10, 32x32, 10 classes)")
    return load_checkpoint(demo_checkpoint(), overrides)


def resolve_sigmas(model: ConsistencyModel, schedule: ScheduleText) -> tuple[float, ...]:
    """Noise levels of a schedule; empty for the default, one step at sigma_max.

    Raises:
        UsageError: two forms at once, text that is no number, or an impossible schedule.
    """
    given = [n for n in ("steps", "timesteps", "sigmas") if getattr(schedule, n) is not None]
    if len(given) > 1:
        raise UsageError(f"give one schedule: --{given[0]} and --{given[1]} contradict each other")
    if schedule.levels is not None and schedule.timesteps is None:
        raise UsageError("--levels only says what --timesteps counts in; for the model's own N use --set levels=N")
    if schedule.sigmas is not None:
        return tuple(_numbers("--sigmas", schedule.sigmas, float))
    if schedule.timesteps is not None:
        indices = tuple(_numbers("--timesteps", schedule.timesteps, int))
        return sigmas_at(model.noise, indices, schedule.levels or model.noise.levels)
    if schedule.steps is not None:
        return sigmas_for_steps(model.noise, schedule.steps)
    return ()


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} {text}: comma-separated numbers are expected, e.g. {option} "
            f"{'80,1.38' if kind is float else '22,0'}"
        ) from None


def build_request(
    model: ConsistencyModel, schedule: ScheduleText, label: int | None, batch: int, output: str
) -> SampleRequest:
    """The request behind the options.

    Raises:
        UsageError: an unknown output form or an impossible schedule.
    """
    if output not in ("float", "uint8"):
        raise UsageError(f"--output {output}: known are float and uint8")
    return SampleRequest(sigmas=resolve_sigmas(model, schedule), label=label, batch=batch, output=output)


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
