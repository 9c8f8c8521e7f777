"""`cmexport sample CKPT|ARTIFACT`: pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from cmexport.artifact import (
    artifact_folder,
    read_arrays,
    read_manifest,
    write_atomically,
    write_grid,
    write_row,
    write_way,
)
from cmexport.artifact.preview import ANIMATIONS
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import assumed_facts, tell_recorded
from cmexport.cli.requests import build_request, chosen_checkpoint, levels_asked, open_checkpoint, tuned_sigmas
from cmexport.errors import UsageError
from cmexport.naming import run_of_steps
from cmexport.photos import read_mask, read_photo
from cmexport.progress import Progress
from cmexport.runner import Array
from cmexport.sampling.schedules import EDITING_STEPS
from cmexport.sources import (
    TORCH,
    PictureSource,
    draw_between,
    draw_pictures,
    require_noise,
    run_all,
    shown_to_people,
    source_from_artifact,
    source_from_model,
)
from cmexport.threads import use_threads

# What to write above the part of a picture that a task knows.
_KNOWN = {"inpaint": "masked", "colorize": "grey", "superres": "low-res"}

Subject = Annotated[
    str | None, typer.Argument(metavar="[CKPT|ARTIFACT]", help="Checkpoint or artefact folder.", show_default=False)
]
Picture = Annotated[Path | None, typer.Option("-o", "--out", metavar="GRID.png", help="Write the pictures as a grid.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first picture; the next has one more.")]
Count = Annotated[
    int | None,
    typer.Option(
        "--count",
        metavar="N",
        show_default=False,
        help="How many pictures. Default: 16; when editing, one, or one of each class (up to 10) without --label.",
    ),
]
SampleLabel = Annotated[
    str | None,
    typer.Option("--label", metavar="N|NAME", help="Class of every picture, by number or name; default: all in turn."),
]
SamplePrompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="What the pictures show; repeatable, prompts are taken in turn."),
]
Inputs = Annotated[Path | None, typer.Option("--inputs", metavar="X.npz", help="Given graph inputs instead of seeds.")]
ImageFile = Annotated[
    Path | None,
    typer.Option(
        "--image", metavar="PHOTO", help="Picture to edit; its middle is cut to the model's shape and resized."
    ),
]
MaskFile = Annotated[
    Path | None, typer.Option("--mask", metavar="MASK", help="inpaint: a picture of the same size, white = keep.")
]
SampleTask = Annotated[
    str | None,
    typer.Option("--task", metavar="T", help="generate, inpaint, colorize, superres, stroke or denoise."),
]
Interpolate = Annotated[
    str | None,
    typer.Option(
        "--interpolate", metavar="A,B", help="Pictures on the way from seed A to seed B; -o WAY.gif or .webp moves."
    ),
]
Noise = Annotated[
    str,
    typer.Option(
        "--noise", metavar="torch|cmx1", help="How noise is made of a seed; cmx1: as in kits, the same everywhere."
    ),
]
Save = Annotated[
    Path | None, typer.Option("--save", metavar="Y.npz", help="Write the pictures as an array named image.")
]


@dataclass(frozen=True)
class _Wanted:
    """What to draw, as typed."""

    count: int | None
    seed: int
    label: str | None
    prompts: tuple[str, ...]
    guidance: float | None
    inputs: Path | None
    image: Path | None
    mask: Path | None
    ends: tuple[int, int] | None
    noise: str


def command(
    subject: Subject = None,
    demo: o.Demo = None,
    out: Picture = None,
    seed: Seed = 0,
    count: Count = None,
    label: SampleLabel = None,
    prompt: SamplePrompts = None,
    guidance: o.Guidance = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    strength: o.Strength = None,
    task: SampleTask = None,
    patch: o.Patch = None,
    image: ImageFile = None,
    mask: MaskFile = None,
    interpolate: Interpolate = None,
    noise: Noise = TORCH,
    inputs: Inputs = None,
    save: Save = None,
    size: o.Size = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    threads: o.Threads = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    as_json: o.AsJson = False,
) -> None:
    """Draw pictures from a checkpoint (in PyTorch) or an artefact (in its runtime); or edit one: --task, --image."""
    use_threads(threads)
    subject = chosen_checkpoint(subject, demo)
    if out is None and save is None:
        raise UsageError("nothing to write: give -o GRID.png, --save Y.npz or both")
    if save is not None and save.suffix != ".npz":
        raise UsageError(f"--save {save}: must end in .npz")
    if not 0 <= seed < 2**63 or (count is not None and count < 1):
        raise UsageError("--seed must not be negative and --count must be at least 1")
    wanted = _Wanted(count, seed, label, tuple(prompt or ()), guidance, inputs, image, mask, _ends(interpolate), noise)
    _check_contradictions(wanted)
    if out is not None and wanted.ends is None and out.suffix.lower() in ANIMATIONS:
        raise UsageError(f"{out}: only --interpolate A,B gives pictures that move; name the file *.png")
    schedule = o.ScheduleText(steps, timesteps, levels, sigmas, strength)
    with console.working("load") as progress:
        source, assumed = _source(
            subject, schedule, wanted, task, patch, o.with_size(assignments, size, loras=loras), weights, strict
        )
        given = _given(source, wanted)
        pictures = _pictures(source, wanted, given, progress)
    if save is not None:
        buffer = io.BytesIO()
        np.savez(buffer, image=pictures)
        write_atomically(save, buffer.getvalue())
    if out is not None:
        _draw(out, source, given, pictures, on_the_way=wanted.ends is not None)
    if as_json:
        console.emit_json(
            {
                "pictures": len(pictures),
                "shape": list(pictures.shape),
                "dtype": str(pictures.dtype),
                "task": source.request.task,
                "grid": None if out is None else str(out),
                "arrays": None if save is None else str(save),
                "assumed": assumed,
            }
        )
    for path in (out, save):
        if path is not None:
            console.say(f"{path}: {len(pictures)} pictures", quiet=as_json)


def _ends(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) < 2**63 for part in parts):
        raise UsageError(f"--interpolate {text}: two seeds are expected, e.g. --interpolate 3,8")
    return int(parts[0]), int(parts[1])


def _check_contradictions(wanted: _Wanted) -> None:
    if wanted.inputs is not None:
        options = {name: getattr(wanted, name) for name in ("label", "guidance", "image", "mask")}
        options |= {"prompt": wanted.prompts or None, "interpolate": wanted.ends}
        if asked := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"--{asked[0]} and --inputs contradict each other: the inputs hold everything")
        if wanted.noise != TORCH:
            raise UsageError(f"--noise {wanted.noise} and --inputs contradict each other: the inputs hold everything")
    require_noise(wanted.noise)
    if wanted.mask is not None and wanted.image is None:
        raise UsageError(f"--mask {wanted.mask}: a mask belongs to a picture; give --image PHOTO too")


def _source(
    subject: str | None,
    schedule: o.ScheduleText,
    wanted: _Wanted,
    task: str | None,
    patch: int | None,
    assignments: list[str],
    weights: str | None,
    strict: bool,
) -> tuple[PictureSource, list[dict[str, Any]]]:
    """Return what draws, and what was guessed of it."""
    folder = artifact_folder(subject)
    if folder is None:
        tuned, asked = tuned_sigmas(subject), o.task_of(task or "generate", schedule.strength)
        levels_of = levels_asked(schedule, tasks=asked, tuned=tuned, editing_steps=EDITING_STEPS)
        model = open_checkpoint(subject, assignments, weights=weights, strict=strict, levels_of=levels_of)
        if wanted.label is not None and model.classes is None:
            raise UsageError(f"--label {wanted.label}: this model is unconditional and takes no label")
        worded = {"guidance": wanted.guidance}
        request = build_request(
            *(model, schedule, None, 1, "float"), task=asked, patch=patch, tuned=tuned, worded=worded
        )
        return source_from_model(model, request), assumed_facts(model.settings)
    if schedule.steps is not None:
        run = run_of_steps(schedule.steps)
        if task is None and run in read_manifest(folder, check=False).function_names:
            task, schedule = run, replace(schedule, steps=None)
    if assignments or weights is not None or schedule != o.ScheduleText():
        raise UsageError(
            f"{folder}: an artefact's weights, constants and schedule are fixed; export again to change them"
        )
    source = source_from_artifact(folder, task)
    if patch not in (None, source.request.patch):
        raise UsageError(f"{folder}: made for --patch {source.request.patch}; export again to change it")
    if wanted.guidance not in (None, source.request.guidance) and "guidance" not in source.signature.names:
        raise UsageError(f"{folder}: its guidance is fixed; export again to change it, or with --guidance-input")
    return source, tell_recorded([read_manifest(folder, check=False)])


def _given(source: PictureSource, wanted: _Wanted) -> dict[str, Array]:
    """Read the picture to edit and its mask; empty when there is none."""
    if wanted.image is None:
        return {}
    task, takes = source.request.task, source.signature.names
    if not source.signature.given:
        raise UsageError(f"--image {wanted.image}: task {task} edits no picture; give --task")
    if "mask" in takes and wanted.mask is None:
        raise UsageError(f"--task {task}: say what to keep with --mask MASK, white = keep")
    if wanted.mask is not None and "mask" not in takes:
        raise UsageError(f"--mask {wanted.mask}: task {task} takes no mask")
    channels, height, width = source.signature.given[0].picture_shape
    image, geometry = read_photo(wanted.image, (height, width), channels)
    given: dict[str, Array] = {"image": image}
    if geometry.remark:
        console.remark(f"{wanted.image}: {geometry.remark}")
    if wanted.mask is not None:
        given["mask"] = read_mask(wanted.mask, geometry)
        if given["mask"].all():
            console.remark(f"{wanted.mask}: keeps the whole picture (white = keep), nothing is painted")
    return given


def _pictures(source: PictureSource, wanted: _Wanted, given: dict[str, Array], progress: Progress) -> Array:
    progress.step("sample")

    def tell(done: int, total: int) -> None:
        progress.pictures("pictures", done, total)

    if wanted.inputs is not None:
        runs = source.signature.batches(read_arrays(wanted.inputs))
        return run_all(source, runs, len(runs), tell)
    if not wanted.prompts and any(i.worded for i in source.signature.inputs):
        console.remark("no --prompt: the pictures show prompts of a packaged list, or of the artefact's own, in turn")
    if wanted.guidance is None:
        for taken in source.usual:
            console.remark(f"no --{taken.name}: {taken.text}, {taken.origin.split(';')[0]}")
    label: dict[str, str] = {} if wanted.label is None else {"label": wanted.label}
    same: dict[str, Array | float | str] = {**given, **label}
    if wanted.guidance is not None and "guidance" in source.signature.names:
        same["guidance"] = wanted.guidance
    if wanted.ends is not None:
        if given:
            raise UsageError("--interpolate and --image contradict each other")
        return draw_between(source, *wanted.ends, wanted.count or 8, same, tell, wanted.prompts, wanted.noise)
    choice = None if label else source.signature.choice
    several = 1 if choice is None else min(choice.count or 1, 10)
    usual = several if source.signature.given else 16
    return draw_pictures(source, wanted.count or usual, wanted.seed, same, tell, wanted.prompts, wanted.noise)


def _draw(out: Path, source: PictureSource, given: dict[str, Array], pictures: Array, on_the_way: bool) -> None:
    """Write a grid, or a way between two; when one picture was edited, before | what the graph knows of it | after."""
    if on_the_way:
        write_way(out, pictures)
        return
    if not given:
        write_grid(out, pictures)
        return
    row: list[tuple[str, Array]] = [("before", given["image"])]
    if source.request.task in _KNOWN:
        row.append((_KNOWN[source.request.task], shown_to_people(source, given)))
    write_row(out, [*row, *(("after" if i == 0 else "", picture) for i, picture in enumerate(pictures))])
