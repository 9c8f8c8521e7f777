"""What the verbs that export or verify print, and how they fail."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmexport.artifact import Manifest
from cmexport.cli import console
from cmexport.errors import ParityError
from cmexport.exporting import ExportResult
from cmexport.parity.ladder import ParityReport
from cmexport.parity.table import parity_table, verdict
from cmexport.targets.registry import INFOS


def show_parity(reports: Mapping[str, ParityReport], target: str) -> None:
    """Show the ladder of each graph, what it means where it was passed, and what it can't tell of this target."""
    for name, report in reports.items():
        if len(reports) > 1:
            console.say(f"{name}:")
        console.say(parity_table(report))
        if report.passed:
            console.say(verdict(report))
    # On a Mac the ladder has rungs of Core ML itself, and Core AI's runtime chooses its unit; TensorRT runs on none.
    if reports and target in INFOS and INFOS[target].scope and platform.system() != "Darwin":
        console.say(INFOS[target].scope)


def check_parity(folder: Path, reports: Mapping[str, ParityReport]) -> None:
    """Fail with the first graph that did.

    Raises:
        ParityError: a gate was missed.
    """
    for name, report in reports.items():
        if not report.passed:
            which = f" ({name})" if len(reports) > 1 else ""
            raise ParityError(f"{folder}{which}: {verdict(report)}")


def show_export(result: ExportResult, as_json: bool) -> None:
    """Show the ladder and the files, or one JSON object; then fail if the ladder did.

    Raises:
        ParityError: a gate was missed; the artefact is kept as `*.rejected`.
    """
    show_planned(result.manifest)
    if as_json:
        manifest = result.manifest.model_dump(mode="json")
        console.emit_json({"folder": str(result.folder), "manifest": manifest, "assumed": manifest["assumed"]})
    else:
        show_parity(result.parities, result.manifest.target)
        if not result.parities:
            console.say("Not verified (--no-verify).")
        for file in result.manifest.files:
            console.say(f"{result.folder / file.path}  {file.bytes / 1e6:.2f} MB")
    check_parity(result.folder, result.parities)


def show_planned(manifest: Manifest) -> None:
    """What the target decided where the plan could not, or did not."""
    for name in manifest.function_names:
        plan: Mapping[str, Any] = manifest.function(name).numerics
        prefix = f"{name}: " if len(manifest.function_names) > 1 else ""
        if keys := plan.get("not_spelled"):
            console.remark(f"{prefix}no 8-bit form here, left in floating point: {', '.join(keys)}")
        if keys := plan.get("not_in_plan"):
            console.remark(f"{prefix}{len(keys)} layers that the plan does not name are as this target has them")


def show_ranges(manifest: Manifest) -> None:
    """What was too large for half precision in each run, and what was done about it."""
    for name in manifest.function_names:
        prefix = f"{name}: " if len(manifest.function_names) > 1 else ""
        if said := manifest.function(name).numerics.get("half_ranges"):
            console.remark(f"{prefix}half precision: {said}")


def show_kept(manifest: Manifest) -> None:
    """Which operations each graph keeps in float32, and why."""
    for name in manifest.function_names:
        plan = manifest.function(name).numerics
        prefix = f"{name}: " if len(manifest.function_names) > 1 else ""
        kept = plan.get("kept_float32")
        if isinstance(kept, list | tuple):
            console.remark(f"{prefix}kept in float32: {', '.join(map(str, kept))} ({plan['kept_float32_reason']})")
        else:
            console.remark(f"{prefix}nothing needs float32")
