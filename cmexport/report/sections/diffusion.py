"""Against diffusion: the same network sampled in many evaluations beside one."""

from __future__ import annotations

from dataclasses import dataclass

from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.identity import network_of
from cmexport.report.material import Material
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
    """The fewest consistency steps and a diffusion sampler, same checkpoint, precision, device and unit."""

    one: Shown
    many: Shown

    @property
    def evaluations(self) -> float:
        """Times as many."""
        return self.many.run.evaluations / self.one.run.evaluations

    @property
    def time(self) -> float | None:
        """Times as long."""
        return ratio(self.many.run.ms_per_picture, self.one.run.ms_per_picture)

    @property
    def energy(self) -> float | None:
        """Times the net energy."""
        return ratio(self.many.run.energy.mj_per_image_net, self.one.run.energy.mj_per_image_net)


def pairs(shown: tuple[Shown, ...]) -> list[Pair]:
    """Every run of a diffusion sampler with the run of fewest steps that it may be compared with."""
    found = []
    for many in shown:
        if _sampler(many) == "consistency":
            continue
        fair = [one for one in shown if _sampler(one) == "consistency" and _setting(one) == _setting(many)]
        if fair:
            found.append(Pair(min(fair, key=lambda s: s.run.evaluations), many))
    return found


def section(material: Material) -> Section:
    """Evaluations, milliseconds and millijoules of both, and their ratios."""
    found = pairs(material.shown)
    bars = [bar for pair in found for bar in (_bar(pair.one), _bar(pair.many)) if bar is not None]
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
    said = f"{pair.one.device}: {number(pair.evaluations, 3)} times fewer evaluations, {held} the promised 10 to 2000"
    time = f"{number(pair.time, 3)} times less time" if pair.time is not None else f"time {NOT_MEASURED}"
    if pair.time is not None and not least <= pair.time <= most:
        time += " (outside them)"
    energy = f"{number(pair.energy, 3)} times less energy" if pair.energy is not None else f"energy {NOT_MEASURED}"
    return f"{said}; {time}; {energy}."


def _sampler(shown: Shown) -> str:
    artifact = shown.run.artifact
    return "consistency" if artifact is None else artifact.manifest.sampling.sampler


def _setting(shown: Shown) -> tuple[object, ...]:
    facts, backend = shown.run.record.artifact, shown.run.record.backend
    return (network_of(facts), facts.target, facts.precision, shown.device, shown.unit, backend.threads)


def _bar(shown: Shown) -> Bar | None:
    value = shown.run.ms_per_picture
    return None if value is None else Bar(shown.label, (value,), None, None, f"{number(value, 3)} ms")


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
    facts = pair.one.run.record.artifact
    title = f"{network_of(facts).title}, {clean(facts.precision)} on {pair.one.device} · {pair.one.unit}"
    return Table(title, _HEAD, tuple(rows))


def _row(shown: Shown) -> tuple[Cell, ...]:
    run = shown.run
    each = None if run.ms_per_picture is None else run.ms_per_picture / run.evaluations
    sampler = _sampler(shown)
    return (
        Cell(f"{clean(sampler, 30)}: {clean(run.record.artifact.name)}"),
        Cell(str(run.evaluations)),
        measured(number(run.ms_per_picture)),
        measured(number(each)),
        measured(number(run.energy.mj_per_image_net)),
        Cell(run.energy.grade),
        measured(number(run.record.parity.mean_db)),
    )
