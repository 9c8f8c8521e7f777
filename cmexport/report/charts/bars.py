"""Horizontal bars, one or several parts each, with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmexport.report.charts.canvas import COLOURS, Canvas
from cmexport.report.charts.scales import from_zero
from cmexport.report.text import tick as tick_text

MOST = 40
"""Rows drawn; the table below a chart has them all."""
_ROW, _BAR, _VALUE_ROOM = 40.0, 13.0, 96.0


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        label: what it is.
        parts: lengths, stacked.
        low: lower end of the error bar of the whole.
        high: upper end.
        value: what stands behind the bar.
    """

    label: str
    parts: tuple[float, ...]
    low: float | None
    high: float | None
    value: str


def draw_bars(
    name: str, title: str, description: str, rows: Sequence[Bar], parts: Sequence[str], unit: str, width: int
) -> str:
    """Bars from zero; `parts` names the stacked parts, where there are several."""
    canvas = Canvas(name, title, description, width)
    top = canvas.legend(2.0, [(f"fill c{i % COLOURS}", p) for i, p in enumerate(parts)]) if len(parts) > 1 else 0.0
    rows = rows[:MOST]
    ends = [sum(row.parts) for row in rows] + [row.high for row in rows if row.high is not None]
    scale = from_zero(ends, 0.0, width - _VALUE_ROOM)
    bottom = top + len(rows) * _ROW + 4.0
    for tick in scale.ticks(4):
        x = scale.at(tick)
        canvas.line(x, top + 4.0, x, bottom, "grid")
        canvas.text(x, bottom + 14.0, tick_text(tick), "small" if x < 12 else "small mid", room=60.0)
    canvas.text(width, bottom + 14.0, unit, "small end", room=_VALUE_ROOM)
    for index, row in enumerate(rows):
        y = top + index * _ROW
        canvas.text(0.0, y + 14.0, row.label)
        at = 0.0
        for part, length in enumerate(row.parts):
            x = scale.at(at)
            at += length
            canvas.rect(x, y + 20.0, max(scale.at(at) - x, 0.5), _BAR, f"fill c{part % COLOURS}")
        x, middle = scale.at(at), y + 20.0 + _BAR / 2
        if row.low is not None and row.high is not None:
            low, high = scale.at(max(row.low, 0.0)), scale.at(row.high)
            canvas.line(low, middle, high, middle, "error")
            for end in (low, high):
                canvas.line(end, middle - 4.0, end, middle + 4.0, "error")
            x = max(x, high)
        canvas.text(x + 6.0, middle + 4.0, row.value, "value", room=_VALUE_ROOM - 6.0)
    return canvas.finish(bottom + 20.0)
