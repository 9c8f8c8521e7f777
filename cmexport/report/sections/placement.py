"""Which operations ran where."""

from __future__ import annotations

from cmexport.report.charts.bars import Bar, draw_bars
from cmexport.report.material import Material
from cmexport.report.text import NOT_MEASURED, clean, grouped, number
from cmexport.report.view import Cell, Chart, Section, Table, measured

_HEAD = ("run", "asked for", "ran on", "operations per unit", "not on the unit asked for", "threads")
_SAID = 12
"""Operators named in a cell; the rest is counted."""


def section(material: Material) -> Section:
    """Operations per unit, where the runtime tells."""
    placed = [(s, s.run.record.backend.placement or {}) for s in material.shown]
    units = sorted({unit for _, placement in placed for unit in placement})
    bars = [
        Bar(s.label, tuple(float(p.get(u, 0)) for u in units), None, None, f"{sum(p.values())} ops")
        for s, p in placed
        if p
    ]
    title = "Operations per unit"
    chart = Chart(
        "placement",
        title,
        "Stacked bars: how many operations of the graph each unit took.",
        lambda width: draw_bars("placement", title, "Operations.", bars, [clean(u, 40) for u in units], "ops", width),
    )
    rows, notes = [], []
    for shown, placement in placed:
        backend = shown.run.record.backend
        if not placement:
            notes.append((shown.label, clean(backend.reasons.get("placement", "the runtime names no unit"), 200)))
        said = ", ".join(f"{clean(u, 40)} {count}" for u, count in placement.items())
        rows.append(
            (
                Cell(shown.label),
                Cell(clean(backend.requested)),
                measured(NOT_MEASURED if backend.realized is None else clean(backend.realized)),
                measured(said or NOT_MEASURED),
                _fallback(backend.fallback_ops, known=bool(placement)),
                measured(number(backend.threads, 4) if backend.threads is None else str(backend.threads)),
            )
        )
    return Section(
        "placement",
        "Operator placement",
        "Where the runtime says it ran the graph's operations.",
        charts=(chart,) if bars else (),
        tables=(Table("Operator placement", _HEAD, tuple(rows)),) if rows else (),
        notes=tuple(grouped(notes)),
    )


def _fallback(names: tuple[str, ...], *, known: bool) -> Cell:
    if not names:
        return Cell("none") if known else Cell(NOT_MEASURED, "none")
    more = f" and {len(names) - _SAID} more" if len(names) > _SAID else ""
    return Cell(clean(", ".join(names[:_SAID]), 400) + more, "bad")
