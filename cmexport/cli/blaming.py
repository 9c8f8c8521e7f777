"""What `verify --blame` measures and shows: half precision, operation by operation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cmexport.artifact import Manifest, read_manifest
from cmexport.cli import console
from cmexport.errors import UsageError
from cmexport.parity.blame import OperationBlame
from cmexport.parity.inputs import draw_inputs
from cmexport.progress import Progress
from cmexport.recorded import lowered_files
from cmexport.targets.coreml.blame import OPERATION_BUDGET_DB, HalfBlame, blame_half
from cmexport.targets.coreml.info import INFO
from cmexport.targets.coreml.package import package_of
from cmexport.targets.coreml.target import function_of

# Two runs of the executor each; statistics of a few hundred thousand numbers for each operation hardly change after.
_PICTURES = 4

_SHOWN = 15


def blame_artifact(folder: Path, task: str | None, pictures: int | None, progress: Progress) -> dict[str, HalfBlame]:
    """Half precision of each graph of an artefact, or of one; no checkpoint is needed.

    Raises:
        UsageError: it is not a Core ML artefact, or has no such graph.
        CheckpointError: it is damaged.
        BackendError: coremltools is missing.
    """
    whole = read_manifest(folder)
    if whole.target != INFO.name:
        raise UsageError(
            f"{folder}: --blame looks into Core ML packages, and this artefact is {whole.target}; "
            "cmexport verify without --blame compares its pictures"
        )
    found = {}
    for name in whole.function_names if task is None else (task,):
        found[name] = _blame(folder, whole.function(name), name, pictures or _PICTURES, progress)
    return found


def _blame(folder: Path, manifest: Manifest, name: str, pictures: int, progress: Progress) -> HalfBlame:
    progress.step(f"{name}: run in float32 and in half precision")
    files = lowered_files(manifest)
    inputs = draw_inputs(manifest.signature, pictures)
    return blame_half(
        package_of(folder, files),
        inputs,
        function_of(manifest.session.options),
        progress=lambda done, total: progress.pictures(name, done, total),
    )


def show_blame(found: dict[str, HalfBlame]) -> None:
    """Show a table for each graph, the first operation that is out, and what is worth keeping in float32."""
    for name, blame in found.items():
        if len(found) > 1:
            console.say(f"{name}:")
        _show(blame)


def _show(blame: HalfBlame) -> None:
    if not any(r.half for r in blame.operations):
        console.say("No operation computes in half precision: there is nothing to blame it for.")
        return
    ranked = sorted(blame.operations, key=lambda r: (not r.overflows_itself, -r.drop_db, r.location))
    shown = [r for r in ranked if r.overflows_itself or r.drop_db > 0.0][:_SHOWN]
    table = Table(
        title=Text(
            f"Half precision (sums too) against float32, same weights, {blame.pictures} pictures: {_pictures(blame)}"
        ),
        title_justify="left",
        caption=Text("drop: how far a result's signal to noise is below its worst operand's, and below one rounding."),
        caption_justify="left",
    )
    for heading in ("operation", "type"):
        table.add_column(heading)
    for heading in ("at", "drop dB", "SNR dB", "largest", "overflows", "subnormal %"):
        table.add_column(heading, justify="right")
    for report in shown:
        table.add_row(
            Text(report.name),
            Text(report.type),
            str(report.location),
            _db(report.drop_db),
            _db(report.snr_db),
            f"{report.largest:.3g}",
            f"{report.overflows} of {report.elements}" if report.overflows else "0",
            f"{100.0 * report.subnormal:.2g}",
        )
    if shown:
        console.say(table)
    for line in _conclusions(blame):
        console.say(line)


def _conclusions(blame: HalfBlame) -> list[str]:
    first, keep = blame.first_over_budget, blame.worth_keeping
    if first is None:
        said = [f"Every operation's result has at least {OPERATION_BUDGET_DB:g} dB; nothing overflows."]
    else:
        how = "overflows" if first.overflows_itself else f"has {_db(first.snr_db)} dB, below {OPERATION_BUDGET_DB:g}"
        said = [f"First out of its budget: {first.name} ({first.type}), which {how}."]
    if keep:
        said.append(f"Worth keeping in float32: --keep-fp32 {','.join(keep)}")
    elif blame.healthy:
        said.append("Nothing is worth keeping in float32.")
    else:
        said.append("No operation can be kept in float32 to mend this.")
    return said


def _pictures(blame: HalfBlame) -> str:
    drawn = blame.difference
    if drawn.mean_db is not None:
        return f"{drawn.mean_db:.1f} dB"
    return f"{drawn.non_finite} NaN or Inf numbers" if drawn.non_finite else "identical"


def _db(value: float) -> str:
    if value == math.inf:
        return "∞"
    return "lost" if value == -math.inf else f"{value:.1f}"


def blame_facts(found: dict[str, HalfBlame]) -> dict[str, Any]:
    """Return what `verify --blame` found as plain data, every operation listed; what is infinite is null."""
    facts = {name: _facts(blame) for name, blame in found.items()}
    return {"blame": next(iter(facts.values()))} if len(facts) == 1 else {"functions": facts}


def _facts(blame: HalfBlame) -> dict[str, Any]:
    first = blame.first_over_budget
    return {
        "mode": blame.mode,
        "pictures": blame.pictures,
        "mean_db": blame.difference.mean_db,
        "non_finite": blame.difference.non_finite,
        "gate_db": blame.gate_db,
        "healthy": blame.healthy,
        "operation_budget_db": OPERATION_BUDGET_DB,
        "first_over_budget": None if first is None else first.name,
        "keep_fp32": list(blame.worth_keeping),
        "operations": [_operation(report) for report in blame.operations],
    }


def _operation(report: OperationBlame) -> dict[str, Any]:
    return {
        "name": report.name,
        "type": report.type,
        "location": report.location,
        "half": report.half,
        "snr_db": _finite(report.snr_db),
        "operand_db": _finite(report.operand_db),
        "drop_db": _finite(report.drop_db),
        "largest": report.largest,
        "elements": report.elements,
        "overflows": report.overflows,
        "overflows_itself": report.overflows_itself,
        "subnormal": report.subnormal,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
