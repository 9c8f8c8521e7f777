"""`cmexport kit ARTIFACT --platform P`: what an app developer drops in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.artifact import artifact_folder
from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.errors import CheckpointError, UsageError
from cmexport.kits import PLATFORMS, check_kit, make_kit, platform_named

Subject = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="Artefact folder, or the model file in it; with --check a kit.")
]
ForPlatform = Annotated[
    str | None,
    typer.Option("--platform", metavar="|".join(PLATFORMS), help="What the app runs on.", show_default=False),
]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where the kit's folder goes.")]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE|NAME",
        help="Names of the classes in the app's code: a file, or cifar10. Default: the artefact's.",
        show_default=False,
    ),
]
Check = Annotated[bool, typer.Option("--check", help="Write nothing: compare a kit's model with its kit.json.")]


def command(
    subject: Subject,
    platform: ForPlatform = None,
    out: Out = Path(),
    labels: Labels = None,
    overwrite: o.Overwrite = False,
    check: Check = False,
    as_json: o.AsJson = False,
) -> None:
    """Make a kit of a verified artefact: model, code to call it, golden pictures, a sample app and a README."""
    if check:
        if platform is not None or labels is not None:
            raise UsageError("--check compares a kit that is there; leave out --platform and --labels")
        kit, folder = check_kit(subject), subject
        console.say(f"{subject}: its model is that of {kit.artifact}", quiet=as_json)
    else:
        if platform is None:
            raise UsageError(f"--platform is missing: {', '.join(PLATFORMS)}")
        artifact = artifact_folder(str(subject))
        if artifact is None:
            raise CheckpointError(f"{subject}: not an artefact; export one first, e.g. `cmexport onnx CKPT`")
        with console.working("draw") as progress:
            made = make_kit(
                artifact,
                platform_named(platform),
                out,
                labels=labels,
                overwrite=overwrite,
                progress=lambda done, total: progress.pictures("golden pictures", done, total),
            )
        kit, folder = made.kit, made.folder
        console.say(f"{folder}: begin with {folder / 'README.md'}", quiet=as_json)
    if as_json:
        console.emit_json({"kit": str(folder), "platform": platform, "facts": kit.model_dump(mode="json")})
