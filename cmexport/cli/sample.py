"""`cmexport sample CKPT|ARTIFACT`: pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cmexport.artifact import write_atomically, write_grid
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.inspect import artifact_folder
from cmexport.cli.requests import build_request, open_checkpoint
from cmexport.drawing import (
    PictureSource,
    draw_pictures,
    read_arrays,
    run_all,
    source_from_artifact,
    source_from_model,
)
from cmexport.errors import UsageError
from cmexport.parity.inputs import split_inputs
from cmexport.progress import Progress
from cmexport.runner import Array

Subject = Annotated[
    str | None, typer.Argument(metavar="[CKPT|ARTIFACT]", help="Checkpoint or artefact folder.", show_default=False)
]
Picture = Annotated[Path | None, typer.Option("-o", "--out", metavar="GRID.png", help="Write the pictures as a grid.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the first picture; the next has one more.")]
Count = Annotated[int, typer.Option("--count", metavar="N", help="How many pictures.")]
SampleLabel = Annotated[
    int | None, typer.Option("--label", metavar="N", help="Class of every picture; default: all in turn.")
]
Inputs = Annotated[Path | None, typer.Option("--inputs", metavar="X.npz", help="Given graph inputs instead of seeds.")]
Save = Annotated[
    Path | None, typer.Option("--save", metavar="Y.npz", help="Write the pictures as an array named image.")
]


def command(
    subject: Subject = None,
    out: Picture = None,
    seed: Seed = 0,
    count: Count = 16,
    label: SampleLabel = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    inputs: Inputs = None,
    save: Save = None,
    assignments: o.Set = None,
    as_json: o.AsJson = False,
) -> None:
    """Draw pictures from a checkpoint (in PyTorch) or an artefact (in its runtime)."""
    if out is None and save is None:
        raise UsageError("nothing to write: give -o GRID.png, --save Y.npz or both")
    if save is not None and save.suffix != ".npz":
        raise UsageError(f"--save {save}: must end in .npz")
    if not 0 <= seed < 2**63 or count < 1:
        raise UsageError("--seed must not be negative and --count must be at least 1")
    schedule = o.ScheduleText(steps, timesteps, levels, sigmas)
    with console.working("load") as progress:
        source = _source(subject, schedule, label, assignments)
        pictures = _pictures(source, inputs, count, seed, label, progress)
    if save is not None:
        buffer = io.BytesIO()
        np.savez(buffer, image=pictures)
        write_atomically(save, buffer.getvalue())
    if out is not None:
        write_grid(out, pictures)
    if as_json:
        console.emit_json(
            {
                "pictures": len(pictures),
                "shape": list(pictures.shape),
                "dtype": str(pictures.dtype),
                "grid": None if out is None else str(out),
                "arrays": None if save is None else str(save),
            }
        )
    for path in (out, save):
        if path is not None:
            console.say(f"{path}: {len(pictures)} pictures", quiet=as_json)


def _source(
    subject: str | None, schedule: o.ScheduleText, label: int | None, assignments: list[str] | None
) -> PictureSource:
    folder = artifact_folder(subject)
    if folder is None:
        model = open_checkpoint(subject, assignments)
        if label is not None and model.conditioning.classes is None:
            raise UsageError(f"--label {label}: this model is unconditional and takes no label")
        return source_from_model(model, build_request(model, schedule, None, 1, "float"))
    if assignments or schedule != o.ScheduleText():
        raise UsageError(f"{folder}: an artefact's constants and schedule are fixed; export again to change them")
    return source_from_artifact(folder)


def _pictures(
    source: PictureSource, inputs: Path | None, count: int, seed: int, label: int | None, progress: Progress
) -> Array:
    progress.step("sample")
    if inputs is None:
        return draw_pictures(source, count, seed, label, lambda done, total: progress.pictures("pictures", done, total))
    if label is not None:
        raise UsageError("--label and --inputs contradict each other: the inputs hold the labels")
    runs = split_inputs(source.inputs, read_arrays(inputs))
    return run_all(source, runs, len(runs), lambda done, total: progress.pictures("pictures", done, total))
