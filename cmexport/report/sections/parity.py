"""Parity: every artefact and every device against PyTorch, with its gate."""

from __future__ import annotations

from collections.abc import Iterator

from cmexport.artifact.parity_record import ParityRecord, RungRecord
from cmexport.parity.table import text_sensitivity
from cmexport.report.gathering import FoundArtifact
from cmexport.report.material import Material
from cmexport.report.text import NOT_MEASURED, clean, decibels, gate, grouped, number
from cmexport.report.view import Cell, Section, Table, measured

_RUNGS = ("artefact", "rung", "pictures", "mean, dB", "worst, dB", "gate, dB", "max abs", "off by 1 / 2 / 4", "verdict")
_DEVICES = ("run", "pictures", "mean, dB", "worst, dB", "gate, dB", "max abs", "reference", "verdict")


def section(material: Material) -> Section:
    """Return the ladder of each artefact as its manifest has it, and the pictures each device made."""
    rungs = [row for a in material.artifacts for row in _ladder(material.label(a), a)]
    unverified = [material.label(a) for a in material.artifacts if a.manifest.parity is None]
    devices, notes = [], [(name, "exported with --no-verify") for name in unverified]
    for shown in material.shown:
        parity = shown.run.record.parity
        devices.append(
            (
                Cell(shown.label),
                Cell(str(parity.pictures)),
                measured(decibels(parity.mean_db, identical=parity.identical)),
                measured(decibels(parity.min_db, identical=parity.identical)),
                measured(gate(parity.gate_db)),
                measured(number(parity.max_abs, 2)),
                measured(NOT_MEASURED if parity.reference is None else clean(parity.reference)),
                _passed(parity.passed),
            )
        )
        if parity.passed is None:
            notes.append((shown.label, clean(parity.reasons["passed"])))
    tables = []
    if rungs:
        tables.append(Table("On the host, when exported: every step from PyTorch to the file", _RUNGS, tuple(rungs)))
    if devices:
        tables.append(Table("On the device: the pictures it made", _DEVICES, tuple(devices)))
    notes += [(material.label(a), said) for a in material.artifacts for said in _remarks(a)]
    return Section(
        "parity",
        "Parity",
        "PSNR of each picture against PyTorch's in float32 from the same noise (peak 2.0), averaged. A precision's "
        "gate is what that mean must reach. Pictures aren't kept: these figures are the manifests' and the records'.",
        tables=tuple(tables),
        notes=tuple(grouped(notes)),
    )


def verdict(artifact: FoundArtifact) -> Cell:
    """Return the parity of an artefact in one line."""
    parity = artifact.manifest.parity
    if parity is None:
        return Cell("not verified", "none")
    shipped = parity.rungs[-1].difference
    said = "identical" if shipped.identical else f"{number(shipped.mean_db)} dB, gate {gate(parity.applied_gate_db)}"
    return Cell(f"FAILED: {said}", "bad") if artifact.rejected else Cell(f"passed: {said}", "good")


def _remarks(artifact: FoundArtifact) -> Iterator[str]:
    """Say what the ladder's table has no columns for: a gate that was measured, and how pictures follow prompts."""
    parity = artifact.manifest.parity
    if parity is None:
        return
    if parity.gate_origin:
        yield f"gate {gate(parity.gate_db)} dB: {clean(parity.gate_origin)}"
    if (follows := parity.rungs[-1].sensitivity) is not None:
        verdict = "passed" if follows.passed else "FAILED"
        said = text_sensitivity(follows.found)
        yield f"{verdict}: {said}, over {follows.pairs} pairs of prompts"


def _ladder(label: str, artifact: FoundArtifact) -> list[tuple[Cell, ...]]:
    parity = artifact.manifest.parity
    return [] if parity is None else [_rung(label, parity, rung) for rung in parity.rungs]


def _rung(label: str, parity: ParityRecord, rung: RungRecord) -> tuple[Cell, ...]:
    found = rung.difference
    shares = " / ".join(f"{100 * share:.2g} %" for share in (found.off_by_1, found.off_by_2, found.off_by_4))
    broken = f", {found.non_finite} NaN or Inf" if found.non_finite else ""
    return (
        Cell(label),
        Cell(clean(rung.name)),
        Cell(str(found.pictures)),
        measured(decibels(found.mean_db, identical=found.identical)),
        measured(decibels(found.min_db, identical=found.identical)),
        Cell(gate(parity.applied_gate_db if rung.own_gate_db is None else rung.own_gate_db)),
        Cell(f"{number(found.max_abs, 2)}{broken}"),
        Cell(shares),
        _passed(rung.passed),
    )


def _passed(passed: bool | None) -> Cell:
    if passed is None:
        return Cell(NOT_MEASURED, "none")
    return Cell("passed", "good") if passed else Cell("FAILED", "bad")
