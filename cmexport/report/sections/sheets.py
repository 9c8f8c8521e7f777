"""Contact sheets: reference | artefact | difference, from `preview.png`; and all artefacts in one table."""

from __future__ import annotations

from cmexport.report.gathering import FoundArtifact
from cmexport.report.material import Material
from cmexport.report.pictures import read_picture
from cmexport.report.sections.parity import verdict
from cmexport.report.text import NOT_MEASURED, megabytes, number
from cmexport.report.view import Cell, Section, Sheet, Table, measured

_HEAD = ("artefact", "ms per picture", "size", "parity", "measured on")


def section(material: Material) -> Section:
    """Open the page: one sheet, and one table of all artefacts, which should be on the first screen."""
    opening = _opening(material)
    rows = tuple(_row(material, artifact) for artifact in material.artifacts)
    notes = () if opening else ("contact sheets lie in artefacts' folders, and none was named",)
    return Section(
        "pictures",
        "Pictures",
        "The same noise through PyTorch and through the artefact, and their difference, amplified 16 times (black: "
        "equal). Times are medians of one picture on the device.",
        sheets=() if opening is None else (_sheet(material, opening),),
        tables=(Table("All artefacts", _HEAD, rows),) if rows else (),
        notes=notes,
    )


def more(material: Material) -> Section:
    """Return the sheets that the opening has no room for."""
    opening = _opening(material)
    sheets = tuple(_sheet(material, artifact) for artifact in material.artifacts if artifact is not opening)
    return Section("more-pictures", "More pictures", "As above, of the other artefacts.", sheets=sheets)


def _opening(material: Material) -> FoundArtifact | None:
    """Return the smallest artefact whose pictures passed: what all this is about; else the first."""
    passed = [a for a in material.artifacts if a.manifest.parity is not None and not a.rejected]
    smallest = min(passed, key=lambda a: a.facts.size_bytes, default=None)
    return smallest or next(iter(material.artifacts), None)


def _row(material: Material, artifact: FoundArtifact) -> tuple[Cell, ...]:
    runs = [s for s in material.shown if s.run.artifact is artifact and s.run.timing.p50 is not None]
    several = len(runs) > 1
    times = [
        f"{number(s.run.ms_per_picture, 3)}{s.run.mark}{f' ({s.run.record.backend.requested})' if several else ''}"
        for s in runs
    ]
    time = measured("; ".join(times) or NOT_MEASURED)
    return (
        Cell(material.label(artifact)),
        Cell(time.text, "bad") if any(s.run.mark for s in runs) else time,
        Cell(megabytes(artifact.facts.size_bytes)),
        verdict(artifact),
        measured("; ".join(dict.fromkeys(s.device for s in runs)) or NOT_MEASURED),
    )


def _sheet(material: Material, artifact: FoundArtifact) -> Sheet:
    label = material.label(artifact)
    picture = read_picture(artifact)
    if isinstance(picture, str):
        return Sheet(label, verdict(artifact), "", 0, 0, "", picture)
    return Sheet(label, verdict(artifact), picture.data, picture.width, picture.height, str(picture.path), "")
