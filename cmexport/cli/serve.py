"""`cmexport serve ARTIFACT`: the live page, in a browser of this machine."""

from __future__ import annotations

import tempfile
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cmexport.artifact import artifact_folder
from cmexport.cli import console
from cmexport.errors import CheckpointError
from cmexport.live import LiveServer, make_site

Artifacts = Annotated[
    list[Path],
    typer.Argument(metavar="ARTIFACT", help="ONNX artefacts; several are one model with different numbers of steps."),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port; 0 takes a free one.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")]
Labels = Annotated[
    str | None,
    typer.Option("--labels", metavar="FILE|NAME", help="Names of the classes: a file, or cifar10.", show_default=False),
]


def command(artifacts: Artifacts, port: Port = 8000, open_page: Open = False, labels: Labels = None) -> None:
    """Serve the live page: pictures drawn in the browser while somebody types. Ctrl-C ends it.

    The page is the web kit's own (`cmexport kit --platform web`). Only this machine can open it.
    """
    folders = [_artifact(path) for path in artifacts]
    with tempfile.TemporaryDirectory(prefix="cmexport-serve-") as folder:
        with console.working("draw") as progress:
            site = make_site(
                folders,
                Path(folder),
                labels=labels,
                progress=lambda done, total: progress.pictures("golden pictures", done, total),
            )
        with LiveServer(site, port) as server:
            console.say(f"{server.address}  (Ctrl-C ends)")
            if open_page:
                webbrowser.open(server.address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                console.say("ended")


def _artifact(path: Path) -> Path:
    folder = artifact_folder(str(path))
    if folder is None:
        raise CheckpointError(f"{path}: not an artefact; export one first, e.g. `cmexport onnx CKPT`")
    return folder
