"""Quality, latency and energy by number of steps."""

from __future__ import annotations

from dataclasses import dataclass

from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.gathering import FoundArtifact
from cmexport.report.identity import Network, network_of
from cmexport.report.material import Material
from cmexport.report.scores import Scores, StepsScore
from cmexport.report.sections.size import distribution_of
from cmexport.report.selecting import Shown
from cmexport.report.text import NOT_MEASURED, clean, interval, number, ratio, times
from cmexport.report.view import Cell, Chart, Section, Table, measured

WANTED = (1, 2, 4)
_HEAD = (
    "steps",
    "levels",
    "distance from real pictures",
    "95 % interval",
    "per picture, ms",
    "x one step",
    "mJ",
    "grade",
)
_FILE = ("steps", "levels", "distance from real pictures", "ms on that machine", "x one step", "size, MB", "schedule")


@dataclass(frozen=True)
class _Group:
    """Artefacts that differ in the number of steps alone, on one device ("" where none was measured)."""

    network: Network
    target: str
    precision: str
    device: str
    unit: str


def section(material: Material) -> Section:
    """A table for each network, target, precision and device; and those that `tune --table --json` wrote."""
    groups = _groups(material)
    tables, bars = [], []
    for group, members in sorted(groups.items(), key=lambda g: str(g[0])):
        if len(members) > 1:
            tables.append(_table(material, group, members))
            bars += _bars(group, members)
    tables += [_from_file(s) for s in material.gathered.scores if s.rows]
    title = "Milliseconds per picture by number of steps"
    chart = Chart(
        "steps",
        title,
        "Bars in milliseconds, one for each number of steps.",
        lambda width: draw_bars("steps", title, "Milliseconds per picture.", bars, (), "ms", width),
    )
    return Section(
        "steps",
        "One, two and four steps",
        "The same network with more evaluations: what they cost and what they bring.",
        charts=(chart,) if bars else (),
        tables=tuple(tables),
        notes=()
        if tables
        else ("export with --steps 2 and --steps 4, or name what cmexport tune --table --features F --json printed",),
    )


def _groups(material: Material) -> dict[_Group, dict[int, tuple[FoundArtifact | None, Shown | None]]]:
    groups: dict[_Group, dict[int, tuple[FoundArtifact | None, Shown | None]]] = {}
    ran = set()
    for shown in material.shown:
        run, facts = shown.run, shown.run.record.artifact
        if run.artifact is not None and run.artifact.manifest.sampling.sampler != "consistency":
            continue
        group = _Group(network_of(facts), facts.target, facts.precision, shown.device, shown.unit)
        groups.setdefault(group, {})[run.evaluations] = (run.artifact, shown)
        ran.add((group.network, group.target, group.precision))
    for artifact in material.artifacts:
        facts = artifact.facts
        group = _Group(network_of(facts), facts.target, facts.precision, "", "")
        measured_somewhere = (group.network, group.target, group.precision) in ran
        if artifact.manifest.sampling.sampler == "consistency" and not measured_somewhere:
            groups.setdefault(group, {})[artifact.evaluations] = (artifact, None)
    return groups


def _table(material: Material, group: _Group, members: dict[int, tuple[FoundArtifact | None, Shown | None]]) -> Table:
    one = _ms(members[1][1]) if 1 in members else None
    rows = []
    for steps in sorted({*WANTED, *members}):
        artifact, shown = members.get(steps, (None, None))
        levels = (
            NOT_MEASURED if artifact is None else ", ".join(number(s, 3) for s in artifact.manifest.sampling.sigmas)
        )
        score = None if artifact is None else distribution_of(material, artifact)
        real = None if score is None or score.distances is None else score.distances.artifact_real
        energy = None if shown is None else shown.run.energy
        rows.append(
            (
                Cell(str(steps)),
                measured(clean(levels)),
                measured(number(None if real is None else real.value)),
                measured(NOT_MEASURED if real is None else interval(real.low, real.high)),
                measured(number(_ms(shown))),
                measured(times(ratio(_ms(shown), one))),
                measured(number(None if energy is None else energy.mj_per_image_net)),
                Cell("D" if energy is None else energy.grade),
            )
        )
    where = f" on {group.device} · {group.unit}" if group.device else ""
    return Table(f"{group.network.title}, {clean(group.target)} {clean(group.precision)}{where}", _HEAD, tuple(rows))


def _bars(group: _Group, members: dict[int, tuple[FoundArtifact | None, Shown | None]]) -> list[Bar]:
    bars = []
    for steps, (_, shown) in sorted(members.items()):
        value = _ms(shown)
        if value is not None:
            label = f"{steps} step{'s' if steps > 1 else ''}: {clean(group.precision)} · {group.device}"
            bars.append(Bar(label, (value,), None, None, f"{number(value, 3)} ms"))
    return bars


def _ms(shown: Shown | None) -> float | None:
    return None if shown is None else shown.run.ms_per_picture


def _from_file(scores: Scores) -> Table:
    one = next((r.latency_ms for r in scores.rows if r.steps == 1), None)
    return Table(
        f"From {clean(scores.file.name)}, cmexport tune --table", _FILE, tuple(_file_row(r, one) for r in scores.rows)
    )


def _file_row(row: StepsScore, one: float | None) -> tuple[Cell, ...]:
    return (
        Cell(str(row.steps)),
        Cell(clean(", ".join(number(s, 3) for s in row.sigmas))),
        measured(number(row.distance)),
        Cell(number(row.latency_ms)),
        measured(times(ratio(row.latency_ms, one))),
        Cell(number(row.bytes / 1e6, 3)),
        Cell(clean(row.schedule)),
    )
