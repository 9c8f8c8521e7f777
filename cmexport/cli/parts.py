"""What `inspect --parts` says of a Stable Diffusion file: its parts, and every weight that has no place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from cmexport.checkpoints.parts_report import FileReport
from cmexport.cli import console


def parts_facts(report: FileReport) -> dict[str, Any]:
    """Return a report as plain data."""
    return {
        "file": str(report.facts.path),
        "container": report.container,
        "sha256": report.facts.sha256,
        "bytes": report.facts.size_bytes,
        "family": report.family or None,
        "problem": report.problem or None,
        "sound": report.sound,
        "parts": [
            {
                "name": part.name,
                "prefix": part.prefix,
                "weights": part.weights,
                "parameters": part.parameters,
                "dtypes": dict(part.dtypes),
                "unmatched": list(part.unmatched),
                "missing": list(part.missing),
                "not_needed": list(part.leftovers),
                "problem": part.problem or None,
            }
            for part in report.parts
        ],
        "beside": list(report.beside),
        "not_needed": list(report.leftovers),
    }


def show_parts(report: FileReport) -> None:
    """Show a report as a table, and under it every name that is unmatched, missing or unknown."""
    facts = report.facts
    family = report.family or "no family"
    console.say(f"{facts.path}: {family}, {report.container}, {facts.size_bytes / 1e6:.1f} MB\nsha256 {facts.sha256}")
    table = Table("part", "names", "weights", "parameters", "types", "unmatched", "missing", "not needed")
    for part in report.parts:
        types = ", ".join(f"{name} {count}" if len(part.dtypes) > 1 else name for name, count in part.dtypes.items())
        counts = (f"{part.weights:,}", f"{part.parameters:,}", types)
        found = (len(part.unmatched), len(part.missing), len(part.leftovers))
        table.add_row(part.name, f"{part.prefix}*", *counts, *(str(n) for n in found))
    console.say(table)
    for text in [report.problem, *(f"{part.name}: {part.problem}" for part in report.parts if part.problem)]:
        if text:
            console.say(Text(text, style="yellow"))
    for part in report.parts:
        _list(f"{part.name}: no network has", part.unmatched)
        _list(f"{part.name}: missing", part.missing)
    _list("beside the parts, unknown", report.beside)
    _list("not needed", [*(name for part in report.parts for name in part.leftovers), *report.leftovers])
    if report.sound:
        console.say("Every weight of its parts has its place.")


def _list(title: str, names: Sequence[str]) -> None:
    if names:
        console.say(Text("\n  ".join([f"{title} ({len(names)}):", *names])))
