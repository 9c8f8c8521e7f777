"""Quality, latency and energy by number of steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.comparing import side_by_side
from cmexport.report.gathering import FoundArtifact
from cmexport.report.identity import Network, network_of
from cmexport.report.material import Material
from cmexport.report.runs import Run
from cmexport.report.scores import Scores, StepsScore
from cmexport.report.sections.size import distribution_of
from cmexport.report.selecting import Shown
from cmexport.report.text import NOT_MEASURED, clean, grouped, interval, number, ratio, times
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


@dataclass(frozen=True)
class _Member:
    """One number of steps: its artefact and its run, where they are at hand."""

    artifact: FoundArtifact | None = None
    shown: Shown | None = None
    run: Run | None = None

    @property
    def ms(self) -> float | None:
        """Median time of a picture."""
        return None if self.run is None else self.run.ms_per_picture


def section(material: Material) -> Section:
    """Return a table for each network, target, precision and device; and those that `tune --table --json` wrote."""
    groups = _groups(material)
    tables, bars, notes = [], [], []
    for group, members in sorted(groups.items(), key=lambda g: str(g[0])):
        if len(members) > 1:
            members, remark = _beside(members)
            notes += [(f"{group.network.title}, {clean(group.precision)} on {group.device}", remark)] if remark else []
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
        "The same network with more evaluations: what they cost and what they bring. Where one command measured all of "
        "them in turns, its runs are compared.",
        charts=(chart,) if bars else (),
        tables=tuple(tables),
        notes=tuple(grouped(notes))
        if tables
        else ("export with --steps 2 and --steps 4, or name what cmexport tune --table --features F --json printed",),
    )


def _groups(material: Material) -> dict[_Group, dict[int, _Member]]:
    groups: dict[_Group, dict[int, _Member]] = {}
    ran = set()
    for shown in material.shown:
        run, facts = shown.run, shown.run.record.artifact
        if run.sampler != "consistency":
            continue
        group = _Group(network_of(facts), facts.target, facts.precision, shown.device, shown.unit)
        groups.setdefault(group, {})[run.evaluations] = _Member(run.artifact, shown, run)
        ran.add((group.network, group.target, group.precision))
    for artifact in material.artifacts:
        facts = artifact.facts
        group = _Group(network_of(facts), facts.target, facts.precision, "", "")
        measured_somewhere = (group.network, group.target, group.precision) in ran
        if artifact.manifest.sampling.sampler == "consistency" and not measured_somewhere:
            groups.setdefault(group, {})[artifact.evaluations] = _Member(artifact)
    return groups


def _table(material: Material, group: _Group, members: dict[int, _Member]) -> Table:
    one = members[1].ms if 1 in members else None
    rows = []
    for steps in sorted({*WANTED, *members}):
        member = members.get(steps, _Member())
        artifact = member.artifact
        levels = (
            NOT_MEASURED if artifact is None else ", ".join(number(s, 3) for s in artifact.manifest.sampling.sigmas)
        )
        score = None if artifact is None else distribution_of(material, artifact)
        real = None if score is None or score.distances is None else score.distances.artifact_real
        energy = None if member.run is None else member.run.energy
        rows.append(
            (
                Cell(str(steps)),
                measured(clean(levels)),
                measured(number(None if real is None else real.value)),
                measured(NOT_MEASURED if real is None else interval(real.low, real.high)),
                measured(number(member.ms)),
                measured(times(ratio(member.ms, one))),
                measured(number(None if energy is None else energy.mj_per_image_net)),
                Cell("D" if energy is None else energy.grade),
            )
        )
    where = f" on {group.device} · {group.unit}" if group.device else ""
    return Table(f"{group.network.title}, {clean(group.target)} {clean(group.precision)}{where}", _HEAD, tuple(rows))


def _bars(group: _Group, members: dict[int, _Member]) -> list[Bar]:
    bars = []
    for steps, member in sorted(members.items()):
        value = member.ms
        if value is not None:
            label = f"{steps} step{'s' if steps > 1 else ''}: {clean(group.precision)} · {group.device}"
            bars.append(Bar(label, (value,), None, None, f"{number(value, 3)} ms"))
    return bars


def _beside(members: dict[int, _Member]) -> tuple[dict[int, _Member], str]:
    """Return the same members with runs of one command, where one measured them all."""
    ran = {steps: m.shown for steps, m in members.items() if m.shown is not None}
    found = side_by_side(list(ran.values()))
    chosen = dict(zip(ran, found.runs, strict=True))
    return {steps: replace(m, run=chosen.get(steps)) for steps, m in members.items()}, found.remark


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
