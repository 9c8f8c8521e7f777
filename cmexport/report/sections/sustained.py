"""Minutes of back-to-back runs."""

from __future__ import annotations

from cmexport.report.charts.curves import Curve, draw_curves
from cmexport.report.material import Material
from cmexport.report.text import clean, number, ratio, times
from cmexport.report.view import Cell, Chart, Section, Table, measured

_HEAD = (
    "run",
    "minutes",
    "first minute, ms",
    "last third, ms",
    "slowdown",
    "canary",
    "throttled after, s",
    "warmest, °C",
)


def section(material: Material) -> Section:
    """Each minute's median over the first minute's."""
    rows, curves, missing = [], [], 0
    for shown in material.shown:
        found = None if shown.sustained is None else shown.sustained.sustained
        if found is None:
            missing += 1
            continue
        label = shown.label
        pace = [(float(m.minute), ratio(m.p50_ms, found.first_p50_ms)) for m in found.minutes]
        curves.append(Curve(label, tuple((x, y) for x, y in pace if y is not None)))
        first = found.minutes[0].canary_ms
        canary = [(float(m.minute), ratio(m.canary_ms, first)) for m in found.minutes]
        if known := tuple((x, y) for x, y in canary if y is not None):
            curves.append(Curve(f"{label}: canary", known, dashed=True))
        celsius = [m.celsius for m in found.minutes if m.celsius is not None]
        rows.append(
            (
                Cell(label),
                Cell(str(len(found.minutes))),
                Cell(number(found.first_p50_ms)),
                Cell(number(found.steady_p50_ms)),
                Cell(times(found.slowdown)),
                measured(times(found.canary_slowdown)),
                Cell("never" if _never(found.reasons) else number(found.time_to_throttle_s, 3)),
                measured(number(max(celsius, default=None), 3)),
            )
        )
    curves = [c for c in curves if c.points]
    title = "Median time of each minute over the first minute's"
    chart = Chart(
        "sustained",
        title,
        "Lines over minutes; 1 is the pace of the first minute. Dashed: the canary, a fixed matrix product beside it.",
        lambda width: draw_curves("sustained", title, "Lines over minutes.", curves, "minute", "x first minute", width),
    )
    return Section(
        "sustained",
        "Sustained",
        "Back-to-back runs. The canary (dashed) is a fixed matrix product timed beside them: when it slows down too, "
        "the clock did.",
        charts=(chart,) if curves else (),
        tables=(Table("Sustained runs", _HEAD, tuple(rows)),) if rows else (),
        notes=(f"not asked for in {missing} of {len(material.shown)} runs (bench --sustained MINUTES)",)
        if missing
        else (),
    )


def _never(reasons: dict[str, str]) -> bool:
    return clean(reasons.get("time_to_throttle_s", "")).startswith("never")
