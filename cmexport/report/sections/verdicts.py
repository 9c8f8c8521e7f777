"""Device by precision: does it run, does it keep the gate, how fast."""

from __future__ import annotations

from cmexport.parity.gates import GATES_DB
from cmexport.report.gathering import FoundArtifact
from cmexport.report.identity import Network, network_of
from cmexport.report.material import Material
from cmexport.report.runs import Run
from cmexport.report.text import NOT_MEASURED, clean, decibels, number
from cmexport.report.view import Cell, Section, Table

_EXPORT = "when exported, on the host"


def section(material: Material) -> Section:
    """A heat map for each network, number of steps and sampler."""
    maps: dict[tuple[Network, int, str], dict[str, dict[str, list[Cell]]]] = {}
    for artifact in material.artifacts:
        facts = artifact.facts
        key = (network_of(facts), artifact.evaluations, artifact.manifest.sampling.sampler)
        row = maps.setdefault(key, {}).setdefault(f"{facts.target}, {_EXPORT}", {})
        row.setdefault(facts.precision, []).append(_exported(artifact))
    for shown in material.shown:
        facts, run = shown.run.record.artifact, shown.run
        sampler = "consistency" if run.artifact is None else run.artifact.manifest.sampling.sampler
        key = (network_of(facts), run.evaluations, sampler)
        row = maps.setdefault(key, {}).setdefault(f"{shown.device} · {shown.unit}", {})
        row.setdefault(facts.precision, []).append(_ran(run))
    tables = tuple(_table(key, rows) for key, rows in sorted(maps.items(), key=lambda item: item[0]))
    return Section(
        "verdicts",
        "Verdicts",
        "Each precision on each device: whether its pictures meet the precision's gate against PyTorch, and the median "
        "time of one picture.",
        tables=tables,
    )


def _table(key: tuple[Network, int, str], rows: dict[str, dict[str, list[Cell]]]) -> Table:
    network, evaluations, sampler = key
    found = {precision for row in rows.values() for precision in row}
    columns = [p for p in GATES_DB if p in found] + sorted(found - GATES_DB.keys())
    steps = f"{evaluations} network evaluation{'s' if evaluations > 1 else ''}"
    how = "" if sampler == "consistency" else f" by {clean(sampler)}"
    return Table(
        f"{network.title}: {steps}{how}",
        ("device", *map(clean, columns)),
        tuple(
            (Cell(name), *(_joined(row.get(c, [])) for c in columns))
            for name, row in sorted(rows.items(), key=lambda r: (_EXPORT not in r[0], r[0]))
        ),
        heat=True,
    )


def _joined(cells: list[Cell]) -> Cell:
    """Several artefacts of one precision share a cell; the worst of them colours it."""
    if not cells:
        return Cell(NOT_MEASURED, "none")
    tones = {c.tone for c in cells}
    tone = next(t for t in ("bad", "none", "good") if t in tones)
    return Cell("; ".join(dict.fromkeys(c.text for c in cells)), tone)


def _exported(artifact: FoundArtifact) -> Cell:
    parity = artifact.manifest.parity
    if parity is None:
        return Cell("not verified", "none")
    shipped = parity.rungs[-1].difference
    said = f"{decibels(shipped.mean_db, identical=shipped.identical)}{'' if shipped.identical else ' dB'}"
    return Cell(f"FAILED: {said}", "bad") if artifact.rejected else Cell(f"passed: {said}", "good")


def _ran(run: Run) -> Cell:
    record = run.record
    if record.failure is not None and run.timing.n == 0:
        return Cell(f"did not run ({clean(record.failure.stage, 30)})", "bad")
    time = f"{number(run.ms_per_picture, 3)} ms"
    parity = record.parity
    if parity.passed is None:
        return Cell(f"{time}, parity {NOT_MEASURED}", "none")
    said = f"{decibels(parity.mean_db, identical=parity.identical)}{'' if parity.identical else ' dB'}"
    return Cell(f"{time}, {said}", "good") if parity.passed else Cell(f"{time}, FAILED: {said}", "bad")
