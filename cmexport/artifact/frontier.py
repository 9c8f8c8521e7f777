"""The frontier of a search under a budget as a picture: dB against latency, each dot as large as its file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 28, 48
_INK, _PAPER, _GRID, _DOT, _BEST = "#222", "#fff", "#ddd", "#4878a8", "#c8502d"


@dataclass(frozen=True)
class FrontierPoint:
    """One file that was measured.

    Attributes:
        name: beside its dot.
        db: mean PSNR, peak 2.0.
        ratio: its time over that of the file all are compared with.
        megabytes: of the file; the dot's area.
        chosen: whether it is the one that was written.
    """

    name: str
    db: float
    ratio: float
    megabytes: float
    chosen: bool = False


def frontier_points(plan: Mapping[str, Any]) -> list[FrontierPoint]:
    """The points that a manifest's `numerics` list under `frontier`; none where no latency was measured."""
    found = []
    for point in plan.get("frontier", ()):
        count = point["in_float"]
        name = "all in pairs" if count < 0 else f"{count} in float"
        chosen = count == plan.get("chosen_in_float")
        found.append(FrontierPoint(name, point["db"], point["ratio"], point["megabytes"], chosen))
    return found


def frontier_svg(points: Sequence[FrontierPoint], time_axis: str) -> str:
    """An SVG picture with axes, a dot and a name for every point, and a line along those that no other one beats.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("a frontier without points")
    across = _Axis.around([p.ratio for p in points], LEFT, WIDTH - RIGHT)
    up = _Axis.around([p.db for p in points], HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="{_INK}">',
        f'<title>Mean PSNR in dB against time {escape(time_axis)}</title><rect width="100%" height="100%" '
        f'fill="{_PAPER}"/>',
    ]
    for value in across.ticks:
        x = across.at(value)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    for value in up.ticks:
        y = up.at(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">time, {escape(time_axis)}</text>')
    parts.append(f'<text x="{LEFT - 44}" y="{TOP - 12}">mean dB; a dot\'s area is its file\'s size</text>')
    line = " ".join(f"{across.at(p.ratio):.1f},{up.at(p.db):.1f}" for p in unbeaten(points))
    parts.append(f'<polyline points="{line}" fill="none" stroke="{_DOT}" stroke-dasharray="4 3"/>')
    largest = max(p.megabytes for p in points)
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: up.at(p.db)):
        x, y = across.at(point.ratio), up.at(point.db)
        radius = 3 + 9 * math.sqrt(point.megabytes / largest)
        colour = _BEST if point.chosen else _DOT
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity=".75"/>')
        parts.append(_name(point, x, y, radius, taken))
    return "\n".join([*parts, "</svg>"]) + "\n"


def unbeaten(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Those that no other point beats in both time and dB, fastest first."""
    found: list[FrontierPoint] = []
    for point in sorted(points, key=lambda p: (p.ratio, -p.db)):
        if not found or point.db > found[-1].db:
            found.append(point)
    return found


def _name(point: FrontierPoint, x: float, y: float, radius: float, taken: list[tuple[float, float]]) -> str:
    """The name on the side that has room, pushed down where another name is."""
    left = x > WIDTH * 0.6
    row = y + 4
    while any(abs(row - other) < 13 and abs(x - at) < 220 for at, other in taken):
        row += 13
    taken.append((x, row))
    anchor, at = ("end", x - radius - 4) if left else ("start", x + radius + 4)
    return (
        f'<text x="{at:.1f}" y="{row:.1f}" text-anchor="{anchor}">{escape(point.name)}'
        f"<title>{point.db:.1f} dB, {point.ratio:.3f} of the time, {point.megabytes:.1f} MB</title></text>"
    )


@dataclass(frozen=True)
class _Axis:
    """From values to pixels, with round numbers to mark."""

    low: float
    high: float
    begin: float
    end: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], begin: float, end: float) -> _Axis:
        spread = max(values) - min(values) or 0.1 * abs(max(values)) or 1.0
        low, high = min(values) - 0.12 * spread, max(values) + 0.12 * spread
        rough = (high - low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(low / step)
        ticks = tuple(round(n * step, 9) for n in range(first, math.floor(high / step) + 1))
        return cls(low, high, begin, end, ticks)

    def at(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)
