"""`cmexport plan [CKPT]`: what each layer costs the pictures in 8 bits, and a plan to edit and to export with."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import JsonValue
from rich.table import Table

from cmexport import __version__
from cmexport.artifact import write_atomically
from cmexport.checkpoints.choosing import chosen_weights
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import assumed_facts
from cmexport.cli.options import parse_set, read_project
from cmexport.cli.requests import build_requests, levels_asked, open_checkpoint, tuned_sigmas, wording
from cmexport.demo import demo_checkpoint
from cmexport.errors import CheckpointError, OutputError, UsageError
from cmexport.layer_study.choice import Choice, choose, default_plan, ranked
from cmexport.layer_study.scoring import Rounding, Setup, captured_graph, require_layers, score_layers
from cmexport.layer_study.state import ScoreFile
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.progress import Progress
from cmexport.quantize.codes import INTEGER_PRODUCTS
from cmexport.quantize.layer_scores import KINDS, PICTURES, SEED, LayerScores
from cmexport.quantize.layers import Layer, find_layers
from cmexport.quantize.precision_plan import INT8, PrecisionPlan, plan_text, read_plan
from cmexport.sampling.schedules import plan_sampling
from cmexport.threads import use_threads

STATE_FILE = ".cmexport-plan.json"
_SHOWN = 12

Out = Annotated[Path, typer.Option("-o", "--out", help="Plan file to write.")]
Pictures = Annotated[int, typer.Option("--pictures", metavar="N", help="Pictures behind each score.")]
Calibration = Annotated[
    int | None,
    typer.Option(
        "--calibration",
        metavar="N",
        help="Pictures to calibrate on; default 1024, 24 for large models.",
        show_default=False,
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="J", help="Processes; -1 is one per core.")]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help=f"Where scores are kept. Default: {STATE_FILE} beside the plan.",
        show_default=False,
    ),
]
KeepDb = Annotated[
    float | None,
    typer.Option(
        "--keep-db",
        metavar="D",
        help="Put layers to float, worst first, until this PSNR is predicted.",
        show_default=False,
    ),
]
Task = Annotated[
    str, typer.Option("--task", metavar="T", help="generate, inpaint, colorize, superres, stroke or denoise.")
]


def command(
    checkpoint: o.Checkpoint = None,
    out: Out = Path("plan.toml"),
    pictures: Pictures = PICTURES,
    calibration: Calibration = None,
    jobs: Jobs = 1,
    state: State = None,
    keep_db: KeepDb = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    task: Task = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    calibration_prompts: o.CalibrationPrompts = None,
    size: o.Size = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    trust: o.Trust = False,
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    as_json: o.AsJson = False,
) -> None:
    """Score every layer alone in 8 bits (weights, activations, both) and write a precision plan with the scores.

    Scores are kept in a file: a stopped run goes on where it was, and another --keep-db costs nothing.
    """
    use_threads(threads)
    kept_in = state or out.parent / STATE_FILE
    _check(pictures, calibration, jobs, keep_db, task)
    _check_places(out, kept_in)
    assignments = o.with_size(assignments, size, loras=loras)
    overrides = {**({} if checkpoint else read_project(Path()).overrides), **parse_set(assignments)}
    with console.working("load") as progress:
        schedule, tuned = o.ScheduleText(steps, timesteps, levels, sigmas), tuned_sigmas(checkpoint)
        model = open_checkpoint(
            *(checkpoint, assignments),
            trust=trust,
            weights=weights,
            strict=strict,
            levels_of=levels_asked(schedule, tasks=task, tuned=tuned),
        )
        _check_plan(out, model, overwrite=overwrite)
        (request,) = build_requests(
            *(model, (schedule,), label, 1, "float"),
            tasks=task,
            patch=patch,
            tuned=tuned,
            worded=wording(calibration_prompts=calibration_prompts),
        )
        rounding = Rounding(PrecisionPlan(), INTEGER_PRODUCTS, calibration)
        book = ScoreFile(kept_in, _question(model, request, pictures, rounding, overrides), pictures)
        chosen = chosen_weights(model.settings)
        if book.scores:
            console.remark(f"{kept_in}: going on with {len(book.scores)} layers scored before")
        setup = Setup(_where(checkpoint), tuple(sorted(overrides.items())), trust, request, pictures, jobs, chosen)
        layers, choice, scores = _planned(setup, model, rounding, book, kept_in, keep_db, progress)
    write_atomically(out, plan_text(choice.plan, layers, model.source.sha256).encode())
    if as_json:
        facts = _as_json(out, kept_in, pictures, layers, choice, scores)
        console.emit_json({**facts, "assumed": assumed_facts(model.settings)})
        return
    console.say(_table(layers, choice, scores))
    console.say(_verdict(out, layers, choice, pictures))


def _check(pictures: int, calibration: int | None, jobs: int, keep_db: float | None, task: str) -> None:
    """Refuse what can't work before minutes are spent.

    Raises:
        UsageError: an impossible number, or several tasks.
    """
    if pictures < 1 or (calibration is not None and calibration < 1):
        raise UsageError("--pictures and --calibration must be at least 1")
    if jobs < 1 and jobs != -1:
        raise UsageError(f"--jobs {jobs}: at least 1, or -1 for one per core")
    if keep_db is not None and not (math.isfinite(keep_db) and keep_db > 0):
        raise UsageError(f"--keep-db {keep_db:g}: a PSNR in dB is expected, e.g. --keep-db 55")
    if "," in task:
        raise UsageError(f"--task {task}: one task per plan; its layers have the same names in all of them")


def _check_places(out: Path, kept_in: Path) -> None:
    """Refuse to begin where the results can't be written.

    Raises:
        OutputError: a folder stands in the way, or is missing.
    """
    for option, path in (("-o", out), ("--state", kept_in)):
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file with {option}")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: its folder does not exist; make it, or name another file with {option}")


def _check_plan(out: Path, model: ConsistencyModel, *, overwrite: bool) -> None:
    """Refuse to replace what is not a plan of this checkpoint.

    Raises:
        UsageError: `out` is something else, and `overwrite` is not given.
    """
    if overwrite or not out.exists():
        return
    try:
        made_from = read_plan(out).checkpoint
    except CheckpointError:
        what = "holds something else than a plan"
    else:
        if made_from == model.source.sha256:
            return
        whose = f"another checkpoint (SHA-256 {made_from[:12]})" if made_from else "a checkpoint that it does not name"
        what = f"holds a plan of {whose}"
    raise UsageError(f"{out}: {what};\n--overwrite replaces it, -o writes elsewhere")


def _where(checkpoint: str | None) -> str:
    """Return what a worker loads: the checkpoint that this command opened."""
    return checkpoint or str(read_project(Path()).checkpoint or demo_checkpoint())


def _planned(
    setup: Setup,
    model: ConsistencyModel,
    rounding: Rounding,
    book: ScoreFile,
    kept_in: Path,
    keep_db: float | None,
    progress: Progress,
) -> tuple[tuple[Layer, ...], Choice, dict[str, LayerScores]]:
    captured = captured_graph(model, setup.request, progress)
    layers = find_layers(captured)
    require_layers(layers, setup.checkpoint)
    try:
        scores = score_layers(setup, captured, layers, rounding, book, progress)
    except KeyboardInterrupt:
        if book.scores:
            console.remark(f"{kept_in}: {len(book.scores)} of {len(layers)} layers are scored; run again to go on")
        raise
    return layers, choose(default_plan(captured, layers, rounding.plan), scores, keep_db), dict(scores)


def _question(
    model: ConsistencyModel, request: SampleRequest, pictures: int, rounding: Rounding, overrides: dict[str, str]
) -> dict[str, JsonValue]:
    """Collect everything that a layer's scores depend on."""
    chosen = chosen_weights(model.settings)
    return {
        **({} if chosen is None else {"weights": chosen}),
        "cmexport": __version__,
        "checkpoint": model.source.sha256,
        "settings": [f"{name}={value}" for name, value in sorted(overrides.items())],
        "sigmas": list(plan_sampling(model, request.sigmas).sigmas),
        "task": request.task,
        "patch": request.patch,
        "label": request.label,
        **({"prompts": list(request.calibration_prompts)} if request.calibration_prompts else {}),
        "pictures": pictures,
        "seed": SEED,
        "calibration": rounding.calibration_pictures,
        "rounding": dataclasses.asdict(rounding.plan.rounding),
        "scheme": dataclasses.asdict(rounding.scheme),
    }


def _table(layers: tuple[Layer, ...], choice: Choice, scores: dict[str, LayerScores]) -> Table:
    roles = {layer.key: layer.role for layer in layers}
    shown = ranked(scores)[:_SHOWN]
    table = Table(
        "layer",
        "role",
        *("weights, dB", "activations, dB", "both, dB", "1-SSIM", "plan"),
        title=f"The {len(shown)} layers that cost most, each alone in 8 bits",
    )
    for column in table.columns[2:6]:
        column.justify = "right"
    for key in shown:
        score = scores[key]
        decibels = [f"{score.of(kind).psnr_db:.1f}" for kind in KINDS]
        table.add_row(key, roles[key], *decibels, f"{1 - score.both.ssim:.1e}", choice.plan.layers[key])
    return table


def _verdict(out: Path, layers: tuple[Layer, ...], choice: Choice, pictures: int) -> str:
    inside = sum(choice.plan.layers[layer.key] == INT8 for layer in layers)
    lines = []
    if choice.moved:
        lines.append(f"put to float for --keep-db: {', '.join(choice.moved)}")
    counts = f"{out}: {inside} layers in 8 bits, {len(layers) - inside} in float"
    if choice.predicted is None:
        return "\n".join([*lines, f"{counts}: nothing is rounded"])
    predicted = f"{choice.predicted.mean_db:.1f} dB, {choice.predicted.worst_db:.1f} in the worst"
    lines += [counts, f"if errors add: {predicted} of {pictures} pictures, before biases are corrected"]
    return "\n".join(lines)


def _as_json(
    out: Path,
    kept_in: Path,
    pictures: int,
    layers: tuple[Layer, ...],
    choice: Choice,
    scores: dict[str, LayerScores],
) -> dict[str, Any]:
    by_key = {layer.key: layer for layer in layers}
    predicted = choice.predicted
    return {
        "plan": str(out),
        "state": str(kept_in),
        "pictures": pictures,
        "predicted_db": None if predicted is None else {"mean": predicted.mean_db, "worst": predicted.worst_db},
        "predicted_db_reason": "no layer is in 8 bits" if predicted is None else None,
        "moved_to_float": list(choice.moved),
        "layers": [
            {
                "layer": key,
                "role": by_key[key].role,
                "weights": by_key[key].weight.numel(),
                "precision": choice.plan.layers[key],
                "psnr_db": {kind: scores[key].of(kind).psnr_db for kind in KINDS},
                "ssim": {kind: scores[key].of(kind).ssim for kind in KINDS},
            }
            for key in ranked(scores)
        ],
    }
