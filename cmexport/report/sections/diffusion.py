"""Against diffusion: the same network sampled in many evaluations beside one."""

from __future__ import annotations

from dataclasses import dataclass

from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.comparing import side_by_side
from cmexport.report.identity import network_of
from cmexport.report.material import Material
from cmexport.report.runs import Run
from cmexport.report.sections.latency import beside
from cmexport.report.selecting import Shown
from cmexport.report.text import NOT_MEASURED, clean, number, ratio, times
from cmexport.report.view import Cell, Chart, Section, Table, measured

CLAIM = (10.0, 2000.0)
"""What the consistency papers promise: 10 to 2000 times less compute than sampling by diffusion."""

_HEAD = (
    "sampler",
    "network evaluations",
    "per picture, ms",
    "per evaluation, ms",
    "mJ per picture",
    "grade",
    "parity, dB",
)


@dataclass(frozen=True)
class Pair:
    """The fewest consistency steps and a diffusion sampler; same checkpoint, precision, device and unit (`where`)."""

    one: Run
    many: Run
    where: str
    remark: str

    @property
    def evaluations(self) -> float:
        """How many times the evaluations diffusion needs."""
        return self.many.evaluations / self.one.evaluations

    @property
    def time(self) -> float | None:
        """How many times as long diffusion takes; None where it wasn't measured."""
        return ratio(self.many.ms_per_picture, self.one.ms_per_picture)

    @property
    def energy(self) -> float | None:
        """How many times the net energy diffusion needs; None where it wasn't measured."""
        return ratio(self.many.energy.mj_per_image_net, self.one.energy.mj_per_image_net)


def pairs(shown: tuple[Shown, ...]) -> list[Pair]:
    """Every run of a diffusion sampler with the run of fewest steps that it may be compared with."""
    found = []
    for many in shown:
        if many.run.sampler == "consistency":
            continue
        fair = [one for one in shown if one.run.sampler == "consistency" and _setting(one) == _setting(many)]
        if fair:
            few = min(fair, key=lambda s: s.run.evaluations)
            beside = side_by_side((few, many))
            one, other = beside.runs
            found.append(Pair(one, other, f"{many.device} · {many.unit}", beside.remark))
    return found


def section(material: Material) -> Section:
    """Compare consistency with diffusion: evaluations, milliseconds and millijoules of both, and their ratios."""
    found = pairs(material.shown)
    bars = [
        bar for pair in found for bar in (_bar(pair.one, pair.where), _bar(pair.many, pair.where)) if bar is not None
    ]
    title = "Milliseconds per picture: one step beside diffusion"
    chart = Chart(
        "diffusion",
        title,
        "Bars in milliseconds, consistency sampling and diffusion in turns.",
        lambda width: draw_bars("diffusion", title, "Milliseconds per picture.", bars, (), "ms", width),
    )
    notes = [verdict(pair) for pair in found]
    if not found:
        notes.append("export the same checkpoint with --sampler heun --steps 18, and bench both on one device")
    return Section(
        "diffusion",
        "Against diffusion",
        "The same network with Heun's sampler of 18 steps (Karras et al. 2022) beside consistency sampling, on the "
        "same device: is it 10 to 2000 times less compute?",
        charts=(chart,) if bars else (),
        tables=tuple(_table(pair) for pair in found),
        notes=tuple(notes),
    )


def verdict(pair: Pair) -> str:
    """Whether what is promised holds here, in one sentence."""
    least, most = CLAIM
    held = "inside" if least <= pair.evaluations <= most else "outside"
    batch = pair.one.record.artifact.batch
    where = pair.where if batch == 1 else f"{pair.where}, batch {batch}"
    said = f"{where}: {number(pair.evaluations, 3)} times fewer evaluations, {held} the promised 10 to 2000"
    time = f"{number(pair.time, 3)} times less time" if pair.time is not None else f"time {NOT_MEASURED}"
    if pair.time is not None and not least <= pair.time <= most:
        time += " (outside them)"
    energy = f"{number(pair.energy, 3)} times less energy" if pair.energy is not None else f"energy {NOT_MEASURED}"
    return f"{said}; {time}; {energy}{f'; {pair.remark}' if pair.remark else ''}."


def _setting(shown: Shown) -> tuple[object, ...]:
    facts, backend = shown.run.record.artifact, shown.run.record.backend
    return (network_of(facts), facts.target, facts.precision, shown.device, shown.unit, backend.threads)


def _bar(run: Run, where: str) -> Bar | None:
    value = run.ms_per_picture
    label = f"{clean(run.record.artifact.name)} · {where}"
    return None if value is None else Bar(label, (value,), None, None, f"{number(value, 3)} ms{run.mark}")


def _table(pair: Pair) -> Table:
    rows = [_row(pair.one), _row(pair.many)]
    rows.append(
        (
            Cell("ratio"),
            Cell(times(pair.evaluations)),
            measured(times(pair.time)),
            Cell(""),
            measured(times(pair.energy)),
            Cell(""),
            Cell(""),
        )
    )
    facts = pair.one.record.artifact
    title = f"{network_of(facts).title}, {clean(facts.precision)} on {pair.where}"
    return Table(title, _HEAD, tuple(rows))


def _row(run: Run) -> tuple[Cell, ...]:
    each = None if run.ms_per_picture is None else run.ms_per_picture / run.evaluations
    return (
        Cell(f"{clean(run.sampler, 30)}: {clean(run.record.artifact.name)}"),
        Cell(str(run.evaluations)),
        beside(run, run.ms_per_picture),
        measured(number(each)),
        measured(number(run.energy.mj_per_image_net)),
        Cell(run.energy.grade),
        measured(number(run.record.parity.mean_db)),
    )
