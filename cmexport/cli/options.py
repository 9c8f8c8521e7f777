"""Options that several verbs share, and the project file. No heavy imports: `--help` must answer at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cmexport.errors import UsageError
from cmexport.files import require_file

PROJECT_FILE = "cmexport.toml"

Checkpoint = Annotated[
    str | None,
    typer.Argument(
        metavar="[CKPT]",
        show_default=False,
        help="Checkpoint. Without it: the one named in ./cmexport.toml, else the packaged demo model.",
    ),
]
Demo = Annotated[
    str | None,
    typer.Option("--demo", metavar="NAME", help="In place of CKPT, a model that ships with cmexport: cifar10, emoji."),
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder that receives the artefact's folder.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Override a constant of the model; repeatable.", show_default=False
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Which of several sets of weights: a prefix or entry (model, net_ema), ema, a subfolder, a variant.",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="HxW", help="Height and width of the pictures: 128x192; as --set image_size."),
]
Decoder = Annotated[
    str | None,
    typer.Option(
        "--decoder",
        metavar="D",
        help="What decodes latents: tiny:FOLDER, an AutoencoderTiny; kl, the pipeline's own. As --set decoder.",
    ),
]
Lora = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:SCALE]",
        help="Latent models: LoRA weights to merge, times SCALE (default 1); repeatable. As --set lora.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a checkpoint of which a setting had to be guessed (exit code 3).")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint", help="Let the file run its own code while it is read. Never needed for supported formats."
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps", metavar="K", help="K evaluations: the release's tuned levels for K = 2, else diffusers' spacing."
    ),
]
SeveralSteps = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="K",
        help="K evaluations: the release's tuned levels for K = 2, else diffusers' spacing. With --packaging staged "
        "also several: 1,4.",
    ),
]
Timesteps = Annotated[
    str | None,
    typer.Option(
        "--timesteps",
        metavar="I,J",
        help="diffusers' timesteps, descending: 22,0 with --levels 40; 999,499 of a latent model.",
    ),
]
Levels = Annotated[
    int | None, typer.Option("--levels", metavar="N", help="Number of levels that --timesteps counts in.")
]
Sigmas = Annotated[
    str | None, typer.Option("--sigmas", metavar="A,B", help="Noise levels evaluated, descending: 80,1.38.")
]
Sampler = Annotated[
    str,
    typer.Option(
        "--sampler",
        metavar="S",
        help="consistency; heun: diffusion beside it, --steps 18 levels in 35 evaluations of the same network; "
        "exact: CTM's jumps without noise; gamma: with noise; euler: the ODE's steps, or a velocity model's; "
        "tcd: latent few-step models.",
    ),
]
Eta = Annotated[
    float | None,
    typer.Option("--eta", metavar="E", help="tcd: noise between steps, 0 (none) to 1. Default: 0.3."),
]
Gamma = Annotated[
    float | None,
    typer.Option("--gamma", metavar="G", help="gamma: noise between CTM's jumps, 0 (none) to 1. Default: 0.5."),
]
Strength = Annotated[
    float | None,
    typer.Option(
        "--strength",
        metavar="S",
        help="Latent few-step models: how much of a picture is painted anew, 0 to 1; implies --task stroke.",
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="T[,T..]",
        help="generate, inpaint, colorize, superres, stroke, denoise; several: one graph for each.",
    ),
]
Patch = Annotated[
    int | None, typer.Option("--patch", metavar="N", help="superres: side of the blocks whose means are known.")
]
Label = Annotated[
    str | None,
    typer.Option("--label", metavar="N|NAME", help="Class, by number or name; baked into an exported graph."),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE|NAME",
        help="Names of the classes: a file, one a line or a JSON list; or a known set: cifar10.",
        show_default=False,
    ),
]
Prompt = Annotated[
    str | None, typer.Option("--prompt", metavar="TEXT", help="Bake one prompt in; the text encoder leaves the file.")
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A closed list of prompts, one a line: the graph takes the number of one and has no text encoder.",
    ),
]
ConditionForm = Annotated[
    str, typer.Option("--condition", metavar="FORM", help="tokens, or embeddings: what the text encoder would give.")
]
Guidance = Annotated[
    float | None,
    typer.Option("--guidance", metavar="G", help="Guidance scale of a model that was distilled for several."),
]
GuidanceInput = Annotated[
    bool, typer.Option("--guidance-input", help="Leave the guidance scale to the app: an input, guidance (N,).")
]
Difficulty = Annotated[
    float | None,
    typer.Option("--difficulty", metavar="D", help="Of every picture, where the model takes one; default: any."),
]
LevelsOf = Annotated[
    list[str] | None,
    typer.Option(
        "--levels-of", metavar="INPUT=N", help="Round a number that the graph takes to N values, and tabulate them."
    ),
]
OutputTransform = Annotated[
    str | None,
    typer.Option("--output-transform", metavar="NAME", help="What pictures mean, in the graph: heights, in metres."),
]
CalibrationPrompts = Annotated[
    Path | None,
    typer.Option(
        "--calibration-prompts",
        metavar="FILE",
        help="Prompts to calibrate and verify with, one a line, in place of a packaged list.",
    ),
]
Batch = Annotated[int, typer.Option("--batch", metavar="N", help="Pictures per run of the exported graph.")]
Output = Annotated[str, typer.Option("--output", help="float: (N, C, H, W) in [-1, 1]; uint8: (N, H, W, C) bytes.")]
PRECISION_FLAGS: Mapping[str, str] = {
    "fp16": "float16 weights and arithmetic, float32 at the border.",
    "bf16": "bfloat16 weights and arithmetic, float32 at the border.",
    "fp8": "Weights and activations in 8-bit floats (E4M3).",
    "int8": "Weights and activations in 8 bits.",
    "w8": "Weights in 8 bits; arithmetic in float16 (Core ML) or float32 (ONNX).",
    "w6": "Weights in 6 bits on average, float16 arithmetic.",
    "w4": "Weights in 4 bits; arithmetic in float16 (Core ML) or float32 (ONNX).",
}
"""What the precisions that have a flag of their own mean."""
Fp16 = Annotated[bool, typer.Option("--fp16", help=PRECISION_FLAGS["fp16"])]
Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="P", help="By name: fp32, fp16, bf16, int8, a16w8 (qnn), fp8, w8, w6, w4."),
]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Write without climbing the parity ladder.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what stands there: an artefact of another checkpoint or of other options."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Seeds = Annotated[
    int | None,
    typer.Option("--seeds", metavar="N", help="Pictures compared on every rung; default 64, fewer for large models."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        help="Threads to compute with. Default: the cores that are free.",
    ),
]
Rewrites = Annotated[str, typer.Option("--rewrites", metavar="all|none|NAME,..", help="Graph rewrites, for diagnosis.")]


@dataclass(frozen=True)
class ScheduleText:
    """The schedule as typed; at most one of the three forms, `strength` only with steps."""

    steps: int | None = None
    timesteps: str | None = None
    levels: int | None = None
    sigmas: str | None = None
    strength: float | None = None


def step_counts(text: str | None) -> tuple[int | None, ...]:
    """Read `--steps` as exporting verbs have it: one number of steps, or several; None where nobody says.

    Raises:
        UsageError: no whole numbers.
    """
    if text is None:
        return (None,)
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 6 for part in parts):
        raise UsageError(f"--steps {text}: a whole number is expected, or several with commas between")
    return tuple(map(int, parts))


def task_of(task: str, strength: float | None) -> str:
    """Return what `--task` says; image to image where a strength is all that is said."""
    return "stroke" if task == "generate" and strength is not None else task


@dataclass(frozen=True)
class Project:
    """`cmexport.toml` of the current folder; `sigmas` is the schedule that `cmexport tune` found."""

    checkpoint: Path | None = None
    weights: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    sigmas: tuple[float, ...] = ()


def read_project(folder: Path) -> Project:
    """The project file of a folder; empty when there is none.

    Raises:
        UsageError: it is not TOML, or holds something else than `checkpoint`, `weights`, `[set]`, `[schedule] sigmas`.
    """
    path = folder / PROJECT_FILE
    require_file(path, "a project file", UsageError)
    if not path.is_file():
        return Project()
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from error
    # [network] belongs to a checkpoint that a sidecar of the same name describes; the loader reads it.
    if unknown := sorted(set(content) - {"checkpoint", "weights", "set", "network", "schedule"}):
        known = "checkpoint, weights, [set], [schedule], [network]"
        raise UsageError(f"{path}: unknown entry '{unknown[0]}'; known: {known}")
    overrides = content.get("set", {})
    checkpoint, weights = content.get("checkpoint"), content.get("weights")
    if not isinstance(overrides, dict) or not isinstance(checkpoint, str | None) or not isinstance(weights, str | None):
        raise UsageError(f"{path}: checkpoint must be a path, weights a name and [set] a table of fields")
    text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in overrides.items()}
    return Project(
        None if checkpoint is None else folder / checkpoint, weights, text, _sigmas(path, content.get("schedule", {}))
    )


def _sigmas(path: Path, schedule: Any) -> tuple[float, ...]:
    """Levels of the `[schedule]` table; empty without one."""
    sigmas = schedule.get("sigmas", []) if isinstance(schedule, dict) and set(schedule) <= {"sigmas"} else None
    if not isinstance(sigmas, list) or not all(type(s) in (int, float) for s in sigmas):
        raise UsageError(f"{path}: [schedule] holds sigmas = [80.0, 1.4], a list of numbers, and nothing else")
    return tuple(float(s) for s in sigmas)


def with_size(
    assignments: Sequence[str] | None,
    size: str | None,
    decoder: str | None = None,
    loras: Sequence[str] | None = None,
) -> list[str]:
    """What `--set`, `--size`, `--decoder` and `--lora` assign; the latter are other spellings of settings.

    Raises:
        UsageError: a LoRA's name has a comma in it.
    """
    if commas := [text for text in loras or () if "," in text]:
        raise UsageError(f"--lora {commas[0]}: a file's name must have no comma, which stands between files")
    more = {"image_size": size, "decoder": decoder, "lora": ",".join(loras) if loras else None}
    return [*(assignments or ()), *(f"{name}={text}" for name, text in more.items() if text is not None)]


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


def choose_precision(
    precision: str | None, flags: Mapping[str, bool], known: Sequence[str], elsewhere: Mapping[str, Sequence[str]]
) -> str:
    """The one precision asked for; fp32 when none is.

    Args:
        precision: by name.
        flags: by flags.
        known: what the target has.
        elsewhere: what every target has, by its verb.

    Raises:
        UsageError: two different ones, or one the target does not have.
    """
    asked = {name for name, given in flags.items() if given} | ({precision} if precision else set())
    if len(asked) > 1:
        raise UsageError(f"choose one precision, not {' and '.join(sorted(asked))}")
    chosen = asked.pop() if asked else "fp32"
    if chosen not in known:
        able = ", ".join(f"`cmexport {verb}`" for verb, precisions in elsewhere.items() if chosen in precisions)
        others = f"; {chosen} is for {able}" if able else ""
        raise UsageError(f"--precision {chosen}: this target has {', '.join(known)}{others}")
    return chosen
