"""What `inspect --peak` says of memory: predicted from the graphs of an ONNX artefact, and measured here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from cmexport.artifact import Manifest
from cmexport.cli import console
from cmexport.errors import BackendError, UsageError, first_line
from cmexport.onnxfile.liveness import footprint
from cmexport.onnxfile.resident import measured_peak, predicted_peak
from cmexport.progress import Progress
from cmexport.runner import Array
from cmexport.signature import Signature


def peak_facts(folder: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """Return what each graph of an artefact needs, in bytes.

    Raises:
        UsageError: its graphs are not ONNX.
        BackendError: a graph can't be run here.
    """
    with console.working("memory") as tell:
        return list(_facts(folder, manifest, tell))


def _facts(folder: Path, manifest: Manifest, tell: Progress) -> Iterator[dict[str, Any]]:
    for graph in manifest.graphs:
        path = folder / graph.files[0]
        if path.suffix != ".onnx":
            raise UsageError(f"--peak: for ONNX artefacts; {folder} has {path.name}")
        facts: dict[str, Any] = {"graph": graph.name, "weights": None, "live": None, "workspace": None, "at": None}
        facts |= {"on_device": None, "predicted": None, "why": ""}
        try:
            found = footprint(path)
            facts |= {"weights": found.stored, "live": found.live, "workspace": found.workspace, "at": found.at}
            facts |= {"on_device": found.on_device, "predicted": predicted_peak(path)}
        except BackendError as error:
            facts["why"] = first_line(error)
        tell.step(f"memory of {graph.name}")
        measured = measured_peak(path, _inputs(graph.signature.signature))
        yield {
            **facts,
            "loaded": None if measured is None else measured.loaded,
            "measured": None if measured is None else measured.peak,
        }


def _inputs(signature: Signature) -> dict[str, Array]:
    """Draw inputs by their laws; what another graph gives has none, and memory asks for its shape only."""
    generator = np.random.default_rng(0)
    own = {i.name: generator.standard_normal(i.shape).astype(i.dtype) for i in signature.inputs if i.law is None}
    lawful = tuple(i for i in signature.inputs if i.law is not None)
    return {**own, **(replace(signature, inputs=lawful).draw() if lawful else {})}


def show_peak(facts: list[dict[str, Any]]) -> None:
    """Show the facts as a table, in MB."""
    table = Table("graph", "weights", "results alive", "at", "on device", "ONNX Runtime: predicted", "measured")
    for row in facts:
        table.add_row(
            *(Text(str(row["graph"])), _megabytes(row, "weights"), _megabytes(row, "live"), Text(str(row["at"] or ""))),
            *(_megabytes(row, "on_device"), _megabytes(row, "predicted"), _megabytes(row, "measured")),
        )
    console.say(table)
    for row in facts:
        if row["why"]:
            console.say(f"{row['graph']}: {row['why']}")
    console.say(
        "MB. On device: weights and results as the file has them, without the runtime's own. ONNX Runtime: on this "
        "CPU, on top of an empty process, up to the second picture."
    )


def _megabytes(row: Mapping[str, Any], name: str) -> str:
    return "-" if row[name] is None else f"{row[name] / 1e6:.1f}"
