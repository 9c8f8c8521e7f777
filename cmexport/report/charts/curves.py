"""Curves over minutes, and points of one figure against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmexport.report.charts.bars import MOST
from cmexport.report.charts.canvas import COLOURS, Canvas
from cmexport.report.charts.scales import Scale, around, logarithmic
from cmexport.report.text import tick as tick_text

_HEIGHT, _LEFT = 230.0, 46.0


@dataclass(frozen=True)
class Curve:
    """A line; one that is `dashed` belongs to the one before it and shares its colour."""

    label: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A numbered point; `number` is repeated in the table below."""

    number: int
    x: float
    y: float
    colour: int


def draw_curves(
    name: str, title: str, description: str, curves: Sequence[Curve], x_unit: str, y_unit: str, width: int
) -> str:
    """Lines over a common pair of axes; x counts something whole."""
    canvas = Canvas(name, title, description, width)
    curves = curves[: 2 * MOST]
    colours, colour = [], -1
    for curve in curves:
        colour += not curve.dashed
        colours.append(max(colour, 0) % COLOURS)
    entries = [(f"fill c{c}", v.label) for v, c in zip(curves, colours, strict=True) if not v.dashed]
    top = canvas.legend(2.0, entries)
    points = [p for c in curves for p in c.points]
    across = around([p[0] for p in points], _LEFT, width - 8.0)
    up = around([p[1] for p in points], top + _HEIGHT, top + 14.0)
    _axes(canvas, across, up, x_unit, y_unit, top, whole=True)
    for curve, shade in zip(curves, colours, strict=True):
        at = [(across.at(x), up.at(y)) for x, y in curve.points]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        canvas.add("polyline", f"stroke s{shade}{' dashed' if curve.dashed else ''}", points=joined)
        if not curve.dashed:
            for x, y in at:
                canvas.add("circle", f"fill c{shade}", cx=x, cy=y, r=3.0)
    return canvas.finish(top + _HEIGHT + 36.0)


def draw_points(
    name: str, title: str, description: str, points: Sequence[Point], x_unit: str, y_unit: str, width: int
) -> str:
    """Numbered points; x is logarithmic."""
    canvas = Canvas(name, title, description, width)
    across = logarithmic([p.x for p in points], _LEFT + 10.0, width - 16.0)
    up = around([p.y for p in points], _HEIGHT, 18.0)
    _axes(canvas, across, up, x_unit, y_unit, 0.0)
    for point in points:
        x, y = across.at(point.x), up.at(point.y)
        canvas.add("circle", f"fill c{point.colour % COLOURS}", cx=x, cy=y, r=9.0)
        canvas.text(x, y + 4.0, str(point.number), "inside mid", room=24.0)
    return canvas.finish(_HEIGHT + 36.0)


def _axes(
    canvas: Canvas, across: Scale, up: Scale, x_unit: str, y_unit: str, top: float, *, whole: bool = False
) -> None:
    bottom = up.left
    for tick in up.ticks(5):
        y = up.at(tick)
        canvas.line(_LEFT, y, canvas.width, y, "grid")
        canvas.text(_LEFT - 6.0, y + 4.0, tick_text(tick), "small end", room=_LEFT)
    taken = -100.0
    for tick in across.ticks(6):
        if whole and tick != round(tick):
            continue
        x = across.at(tick)
        if x - taken >= 40.0:
            canvas.text(x, bottom + 16.0, tick_text(tick), "small mid", room=60.0)
            taken = x
    canvas.line(_LEFT, bottom, canvas.width, bottom, "axis")
    canvas.text(canvas.width, bottom + 32.0, x_unit, "small end", room=canvas.width)
    canvas.text(0.0, top + 10.0, y_unit, "small", room=canvas.width)
