"""Device by precision: does it run, does it keep the gate, how fast."""

from __future__ import annotations

from dataclasses import dataclass

from cmexport.parity.gates import GATES_DB
from cmexport.report.gathering import FoundArtifact
from cmexport.report.identity import Network, network_of
from cmexport.report.material import Material
from cmexport.report.runs import Run
from cmexport.report.text import NOT_MEASURED, clean, decibels, number
from cmexport.report.view import Cell, Section, Table

_EXPORT = "when exported, on the host"


@dataclass(frozen=True, order=True)
class _Row:
    """A place, and what tells it from one step and one picture there; `order` puts the host first."""

    order: int
    place: str
    evaluations: int
    sampler: str
    batch: int

    @property
    def label(self) -> str:
        """The run as people call it: place, evaluations, sampler, batch."""
        said = "" if self.evaluations == 1 else f", {self.evaluations} evaluations"
        said += "" if self.sampler == "consistency" else f" ({self.sampler})"
        return self.place + said + ("" if self.batch == 1 else f", batch {self.batch}")


_Rows = dict[_Row, dict[str, list[Cell]]]


def section(material: Material) -> Section:
    """Return a heat map for each checkpoint and task."""
    maps: dict[tuple[str, str], _Rows] = {}
    for artifact in material.artifacts:
        facts = artifact.facts
        row = _Row(
            1,
            f"{clean(facts.target)}, {_EXPORT}",
            artifact.evaluations,
            clean(artifact.manifest.sampling.sampler, 30),
            facts.batch,
        )
        _put(maps, network_of(facts), row, facts.precision, _exported(artifact))
    for shown in material.shown:
        facts, run = shown.run.record.artifact, shown.run
        row = _Row(2, f"{shown.device} · {shown.unit}", run.evaluations, clean(run.sampler, 30), facts.batch)
        _put(maps, network_of(facts), row, facts.precision, _ran(run))
    names = {a.facts.checkpoint_sha256: a.manifest.checkpoint.file for a in material.artifacts}
    tables = tuple(_table(key, clean(names.get(key[0]) or ""), rows) for key, rows in sorted(maps.items()))
    return Section(
        "verdicts",
        "Verdicts",
        "Each precision on each device: whether its pictures meet the precision's gate against PyTorch, and the median "
        "time of one picture.",
        tables=tables,
    )


def _put(maps: dict[tuple[str, str], _Rows], network: Network, row: _Row, column: str, cell: Cell) -> None:
    rows = maps.setdefault((network.checkpoint, network.task), {})
    rows.setdefault(row, {}).setdefault(column, []).append(cell)


def _table(key: tuple[str, str], name: str, rows: _Rows) -> Table:
    checkpoint, task = key
    found = {precision for row in rows.values() for precision in row}
    columns = [p for p in GATES_DB if p in found] + sorted(found - GATES_DB.keys())
    which = f"{checkpoint.lstrip('?')[:12]}…{f' ({name})' if name else ''}"
    return Table(
        f"Checkpoint {which}{'' if task == 'generate' else f', {task}'}",
        ("device", *map(clean, columns)),
        tuple(
            (Cell(row.label), *(_joined(cells.get(c, [])) for c in columns))
            for row, cells in sorted(rows.items(), key=lambda item: item[0])
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
    time = f"{number(run.ms_per_picture, 3)} ms{run.mark}"
    parity = record.parity
    if parity.passed is None:
        return Cell(f"{time}, parity {NOT_MEASURED}", "none")
    said = f"{decibels(parity.mean_db, identical=parity.identical)}{'' if parity.identical else ' dB'}"
    return Cell(f"{time}, {said}", "good") if parity.passed else Cell(f"{time}, FAILED: {said}", "bad")
