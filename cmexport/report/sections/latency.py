"""Latency strips and the cold start."""

from __future__ import annotations

from collections.abc import Iterator

from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.charts.strips import Strip, draw_strips
from cmexport.report.material import Material
from cmexport.report.runs import ORIGINS, Run
from cmexport.report.selecting import Shown
from cmexport.report.text import clean, day, grouped, number
from cmexport.report.view import Cell, Chart, Section, Table, measured

_HEAD = ("run", "p50, ms", "p90, ms", "p99, ms", "fastest", "runs", "per picture, ms", "peak memory, MB", "measured")
_COLD = ("run", "load, fresh process, ms", "first run, ms", "to the first picture, ms", "load again, ms", "p50, ms")


def section(material: Material) -> Section:
    """Percentiles of all timed runs."""
    timed = [s for s in material.shown if s.run.timing.p50 is not None]
    strips = [_strip(s) for s in timed]
    rows = tuple(_row(s) for s in material.shown)
    notes = grouped((s.label, said) for s in material.shown for said in _remarks(s))
    title = "Milliseconds of one run: every run, percentiles, first run, cold load"
    chart = Chart(
        "latency",
        title,
        "One strip per run on a logarithmic axis in milliseconds; the numbers are in the table below.",
        lambda width: draw_strips("latency", title, "The numbers are in the table below.", strips, width),
    )
    return Section(
        "latency",
        "Latency",
        "Milliseconds on the device's own clock for one run of the graph; percentiles of all timed runs, first run and "
        "load apart. No p99 below 200 runs: it would be one or two of them.",
        charts=(chart,) if strips else (),
        tables=(Table("Latency and memory", _HEAD, rows),) if rows else (),
        notes=tuple(notes),
    )


def cold_start(material: Material) -> Section:
    """Load and first run, stacked."""
    known = [s for s in material.shown if s.run.timing.load_cold is not None and s.run.timing.first is not None]
    bars = []
    for s in known:
        timing = s.run.timing
        assert timing.load_cold is not None
        assert timing.first is not None
        total = timing.load_cold + timing.first
        bars.append(Bar(s.label, (timing.load_cold, timing.first), None, None, f"{number(total, 3)} ms"))
    title = "Cold start: from a fresh process to the first picture"
    chart = Chart(
        "cold",
        title,
        "Stacked bars in milliseconds: opening the model in a fresh process, then the first run.",
        lambda width: draw_bars("cold", title, "Milliseconds.", bars, ("load", "first run"), "ms", width),
    )
    rows = tuple(_cold(s) for s in material.shown)
    return Section(
        "cold-start",
        "Cold start",
        "Opening the model in a fresh process (or page), then the first run: what a user waits for once.",
        charts=(chart,) if bars else (),
        tables=(Table("Cold start", _COLD, rows),) if rows else (),
    )


def beside(run: Run, value: float | None) -> Cell:
    """Write a time, with the word beside it that it must not be read without."""
    cell = measured(number(value))
    return Cell(f"{cell.text}{run.mark}", "bad") if run.mark and value is not None else cell


def _strip(shown: Shown) -> Strip:
    timing = shown.run.timing
    return Strip(
        f"{shown.label}{shown.run.mark}",
        shown.run.ms,
        timing.p50,
        timing.p90,
        timing.p99,
        timing.first,
        timing.load_cold,
    )


def _remarks(shown: Shown) -> Iterator[str]:
    """Failure, flags, why there is no p99, and where the figures don't come from samples or differ from them."""
    run = shown.run
    record = run.record
    if record.failure is not None:
        yield f"failed ({clean(record.failure.stage, 40)}): {clean(record.failure.message, 300)}"
    if record.validity.flags:
        yield f"flagged {', '.join(record.validity.flags)}"
    if run.timing.p50 is not None and run.timing.p99 is None:
        yield f"no p99: {clean(run.timing.reasons['p99'])}"
    if run.origin != "samples":
        yield ORIGINS[run.origin]
    if run.disagreements:
        yield f"the record disagrees with its samples, whose figures are shown: {clean(run.disagreements[0])}"


def _row(shown: Shown) -> tuple[Cell, ...]:
    run = shown.run
    timing = run.timing
    figures = (timing.p90, timing.p99, timing.min)
    return (
        Cell(shown.label),
        beside(run, timing.p50),
        *(measured(number(value)) for value in figures),
        Cell(str(timing.n)),
        beside(run, run.ms_per_picture),
        measured(number(run.record.memory_mb.peak, 3)),
        Cell(f"{day(run.record.provenance.created)}{'' if run.origin == 'samples' else ', as recorded'}"),
    )


def _cold(shown: Shown) -> tuple[Cell, ...]:
    timing = shown.run.timing
    both = None if timing.load_cold is None or timing.first is None else timing.load_cold + timing.first
    figures = (timing.load_cold, timing.first, both, timing.load_warm, timing.p50)
    *cold, median = figures
    return (Cell(shown.label), *(measured(number(value)) for value in cold), beside(shown.run, median))
