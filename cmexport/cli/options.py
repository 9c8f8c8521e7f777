"""Options that several verbs share, and how their text becomes a request."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmexport.checkpoints import load_checkpoint
from cmexport.cli import console
from cmexport.demo import demo_checkpoint
from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.schedules import sigmas_at, sigmas_for_steps

PROJECT_FILE = "cmexport.toml"
PRECISION_FLAGS = ("fp32", "fp16", "int8", "w8", "w6", "w4")

Checkpoint = Annotated[
    str | None,
    typer.Argument(
        metavar="[CKPT]",
        show_default=False,
        help="Checkpoint. Without it: the one named in ./cmexport.toml, else the packaged demo model.",
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder that receives the artefact's folder.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Override a constant of the model; repeatable.", show_default=False
    ),
]
Steps = Annotated[int | None, typer.Option("--steps", metavar="K", help="K evaluations, spaced as diffusers does.")]
Timesteps = Annotated[
    str | None,
    typer.Option("--timesteps", metavar="I,J", help="diffusers' timesteps, descending: 22,0 with --levels 40."),
]
Levels = Annotated[
    int | None, typer.Option("--levels", metavar="N", help="Number of levels that --timesteps counts in.")
]
Sigmas = Annotated[
    str | None, typer.Option("--sigmas", metavar="A,B", help="Noise levels evaluated, descending: 80,1.38.")
]
Label = Annotated[int | None, typer.Option("--label", metavar="N", help="Class; baked into an exported graph.")]
Batch = Annotated[int, typer.Option("--batch", metavar="N", help="Pictures per run of the exported graph.")]
Output = Annotated[str, typer.Option("--output", help="float: (N, C, H, W) in [-1, 1]; uint8: (N, H, W, C) bytes.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="float16 weights and arithmetic, float32 at the border.")]
Precision = Annotated[str | None, typer.Option("--precision", metavar="P", help="fp32 or fp16.")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write without climbing the parity ladder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Rewrites = Annotated[str, typer.Option("--rewrites", metavar="all|none|NAME,..", help="Graph rewrites, for diagnosis.")]


@dataclass(frozen=True)
class ScheduleText:
    """The schedule as typed; at most one of the three forms."""

    steps: int | None = None
    timesteps: str | None = None
    levels: int | None = None
    sigmas: str | None = None


@dataclass(frozen=True)
class Project:
    """`cmexport.toml` of the current folder."""

    checkpoint: Path | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)


def read_project(folder: Path) -> Project:
    """The project file of a folder; empty when there is none.

    Raises:
        UsageError: it is not TOML, or holds something else than `checkpoint` and `[set]`.
    """
    path = folder / PROJECT_FILE
    if not path.is_file():
        return Project()
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    if unknown := sorted(set(content) - {"checkpoint", "set"}):
        raise UsageError(f"{path}: unknown entry '{unknown[0]}'; known: checkpoint, [set]")
    overrides = content.get("set", {})
    checkpoint = content.get("checkpoint")
    if not isinstance(overrides, dict) or not isinstance(checkpoint, str | None):
        raise UsageError(f"{path}: checkpoint must be a path and [set] a table of fields")
    text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in overrides.items()}
    return Project(None if checkpoint is None else folder / checkpoint, text)


def parse_set(assignments: Sequence[str] | None) -> dict[str, str]:
    """`FIELD=VALUE` texts as a mapping.

    Raises:
        UsageError: one has no "=", or a field comes twice.
    """
    fields: dict[str, str] = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {assignment}: write FIELD=VALUE, e.g. --set sigma_data=0.5")
        if name.strip() in fields:
            raise UsageError(f"--set {name.strip()}: given twice")
        fields[name.strip()] = value.strip()
    return fields


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


def choose_precision(precision: str | None, flags: Mapping[str, bool], known: Sequence[str]) -> str:
    """The one precision asked for; fp32 when none is.

    Raises:
        UsageError: two different ones, or one the target does not have.
    """
    asked = {name for name, given in flags.items() if given} | ({precision} if precision else set())
    if len(asked) > 1:
        raise UsageError(f"choose one precision, not {' and '.join(sorted(asked))}")
    chosen = asked.pop() if asked else "fp32"
    if chosen not in known:
        raise UsageError(f"--precision {chosen}: this target has {', '.join(known)}")
    return chosen


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
