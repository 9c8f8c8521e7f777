"""`cmexport init [CKPT]`: a commented recipe for a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cmexport.artifact import write_atomically
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.choosing import chosen_weights
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.assumed import tell_assumed
from cmexport.cli.options import parse_set
from cmexport.cli.requests import said_aloud
from cmexport.demo import demo_checkpoint
from cmexport.errors import CheckpointError, OutputError
from cmexport.model import ConsistencyModel, Setting, Space
from cmexport.naming import model_name
from cmexport.recipes.template import Subject, recipe_text
from cmexport.sampling.schedules import tuned_two_steps

File = Annotated[
    Path | None, typer.Argument(metavar="[CKPT]", show_default=False, help="Checkpoint. Without it: the demo model.")
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="FILE", help="Recipe to write. Default: NAME.toml here.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def command(
    checkpoint: File = None,
    out: Out = None,
    force: Force = False,
    size: o.Size = None,
    loras: o.Lora = None,
    assignments: o.Set = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    trust: o.Trust = False,
    as_json: o.AsJson = False,
) -> None:
    """Write a commented recipe for a checkpoint: what is assumed of it, schedules, targets, devices.

    The checkpoint is read, so that the recipe starts with what is known of it and lists what is guessed.
    """
    if checkpoint is not None and not checkpoint.exists():
        raise CheckpointError(f"{checkpoint}: no such checkpoint")
    target = out or Path(f"{model_name(checkpoint) if checkpoint is not None else 'demo'}.toml")
    if target.is_dir():
        raise OutputError(f"{target}: a folder; name a file, e.g. -o {target / 'recipe.toml'}")
    if target.exists() and not force:
        raise OutputError(f"{target}: is there already; --force replaces it, -o names another")
    chosen = parse_set(o.with_size(assignments, size, loras=loras))
    with console.working("read"):
        # Never the project's: a recipe names what it is for.
        file = demo_checkpoint() if checkpoint is None else checkpoint
        model = said_aloud(load_checkpoint(file, chosen, trust=trust, weights=weights))
    tell_assumed(model, strict=strict)
    subject = Subject(
        name=model.source.name,
        file=None if checkpoint is None else os.path.relpath(checkpoint, target.parent),
        what=_what(model),
        classes=model.classes,
        assumed=[s for s in model.settings if (s.ambiguous or s.name in chosen) and _settable(s)],
        sigmas=None if model.schedule is not None else tuned_two_steps(model.source.name, model.noise),
        weights=chosen_weights(model.settings),
        steps=None if model.schedule is None else model.schedule.default_steps,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, recipe_text(subject, str(target)).encode())
    if as_json:
        console.emit_json({"recipe": str(target), "assumed": [s.name for s in subject.assumed]})
        return
    console.say(f"{target} written. See what it does with:  cmexport run {target} --dry-run")
    if subject.assumed:
        console.say(f"Assumed, to be confirmed in [checkpoint.set]: {', '.join(s.name for s in subject.assumed)}")


def _what(model: ConsistencyModel) -> str:
    space, classes, codec = model.space, model.classes, model.codec
    if codec is not None:
        space = Space(codec.channels, space.height * codec.factor, space.width * codec.factor)
    colors = {1: "grey pictures", 3: "pictures"}.get(space.channels, f"pictures of {space.channels} channels")
    words = "" if model.worded is None else " of prompts"
    return f"{space.text} {colors}{words}" + ("" if classes is None else f", {classes} classes")


def _settable(setting: Setting) -> bool:
    """num_head_channels = -1 only says that num_heads decides."""
    return not (setting.name == "num_head_channels" and setting.value == -1)
