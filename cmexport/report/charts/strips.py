"""Latency strips: every run, the percentiles, the first run and the cold load on one logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmexport.report.charts.bars import MOST
from cmexport.report.charts.canvas import Canvas
from cmexport.report.charts.scales import logarithmic
from cmexport.report.text import number
from cmexport.report.text import tick as tick_text

_ROW, _TICKS = 46.0, 120
"""Runs drawn per strip; more are thinned out evenly by rank, which keeps the shape and both ends."""


@dataclass(frozen=True)
class Strip:
    """Milliseconds of one run; what is None is not drawn."""

    label: str
    samples: tuple[float, ...]
    p50: float | None
    p90: float | None
    p99: float | None
    first: float | None
    cold: float | None


def draw_strips(name: str, title: str, description: str, strips: Sequence[Strip], width: int) -> str:
    """One strip below the other."""
    canvas = Canvas(name, title, description, width)
    marks = [("fill c0", "p50"), ("fill c1", "p90"), ("fill c3", "p99")]
    marks += [("fill c2", "first run"), ("fill c4", "cold load"), ("fill faint", "each run")]
    top = canvas.legend(2.0, marks)
    strips = strips[:MOST]
    values = [v for s in strips for v in (*s.samples, s.p50, s.p90, s.p99, s.first, s.cold) if v is not None]
    scale = logarithmic(values, 8.0, width - 8.0)
    bottom = top + len(strips) * _ROW + 2.0
    taken = -100.0
    for tick in scale.ticks(5):
        x = scale.at(tick)
        canvas.line(x, top + 4.0, x, bottom, "grid")
        if x - taken >= 38.0 and x < width - 30.0:
            canvas.text(x, bottom + 14.0, tick_text(tick), "small mid", room=60.0)
            taken = x
    canvas.text(width, bottom + 14.0, "ms", "small end", room=40.0)
    for index, strip in enumerate(strips):
        y = top + index * _ROW
        said = "" if strip.p50 is None else f"  {number(strip.p50, 3)} ms"
        canvas.text(0.0, y + 14.0, strip.label, room=width - 90.0)
        canvas.text(width, y + 14.0, said, "value end", room=90.0)
        middle = y + 30.0
        for sample in _thinned(strip.samples):
            x = scale.at(sample)
            canvas.line(x, middle - 7.0, x, middle + 7.0, "faint")
        known = [v for v in (strip.p50, strip.p90, strip.p99) if v is not None]
        if known:
            canvas.line(scale.at(min(known)), middle, scale.at(max(known)), middle, "span")
        for value, colour in ((strip.p99, "c3"), (strip.p90, "c1"), (strip.p50, "c0")):
            if value is not None:
                canvas.add("circle", f"fill {colour}", cx=scale.at(value), cy=middle, r=5.0)
        for value, colour in ((strip.first, "c2"), (strip.cold, "c4")):
            if value is not None:
                x = scale.at(value)
                corners = ((x, middle - 6), (x + 6, middle), (x, middle + 6), (x - 6, middle))
                canvas.add("polygon", f"fill {colour}", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners))
    return canvas.finish(bottom + 20.0)


def _thinned(samples: Sequence[float]) -> list[float]:
    ordered = sorted(samples)
    if len(ordered) <= _TICKS:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (_TICKS - 1))] for i in range(_TICKS)]
