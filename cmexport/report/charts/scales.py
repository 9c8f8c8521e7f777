"""From a number to a pixel, and the round numbers on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

_LEAST = 1e-300
"""Below are the subnormal numbers, whose fractions are zero."""


@dataclass(frozen=True)
class Scale:
    """Linear, or logarithmic where `log`, from `low`..`high` to `left`..`right` pixels."""

    low: float
    high: float
    left: float
    right: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value; beyond the ends it is the end."""
        share = (self._of(value) - self._of(self.low)) / (self._of(self.high) - self._of(self.low))
        return self.left + min(max(share, 0.0), 1.0) * (self.right - self.left)

    def _of(self, value: float) -> float:
        return math.log10(max(value, _LEAST)) if self.log else value / max(abs(self.low), abs(self.high))

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers inside, about `wanted`."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1.0, 2.0, 5.0) if last - first <= 2 else (1.0,)
            every = max(1, (last - first) // max(1, wanted))
            found = [s * 10.0**e for e in range(first, last + 1, every) if e < 308 for s in steps]
        else:
            step = _round_step((self.high - self.low) / wanted)
            start = math.ceil(self.low / step - 1e-9)
            found = [i * step for i in range(start, math.floor(self.high / step + 1e-9) + 1)]
        return [t for t in found if self.low * (1 - 1e-9) <= t <= self.high * (1 + 1e-9)]


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(r for r in (1.0, 2.0, 2.5, 5.0, 10.0) if step <= r * power * (1 + 1e-9)) * power


def from_zero(values: list[float], left: float, right: float) -> Scale:
    """Linear from 0 to a little more than the largest of `values`."""
    most = max([v for v in values if math.isfinite(v) and v > 0], default=1.0)
    return Scale(0.0, min(max(most, _LEAST) * 1.02, 1.7e308), left, right)


def logarithmic(values: list[float], left: float, right: float) -> Scale:
    """Logarithmic around the positive ones of `values`, at least a factor of 1.2 wide."""
    known = [v for v in values if 0 < v < math.inf] or [1.0]
    low, high = max(min(known) / 1.1, _LEAST), min(max(known) * 1.1, 1e300)
    return Scale(low, max(high, low * 1.2), left, right, log=True)


def around(values: list[float], left: float, right: float) -> Scale:
    """Linear around `values`, with a margin."""
    low, high = min(values), max(values)
    margin = max((high - low) * 0.08, abs(high) * 0.02, 1e-9)
    return Scale(low - margin, high + margin, left, right)
