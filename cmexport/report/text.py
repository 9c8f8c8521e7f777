"""Numbers and names as text."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime

NOT_MEASURED = "not measured"
_LONGEST = 160


def clean(text: str, longest: int = _LONGEST) -> str:
    """Write a name from a file as one line: no control or direction marks (they reorder a page), at most `longest`."""
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = re.sub(" +", " ", kept).strip()
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits, whole numbers with thin spaces; None is "not measured"."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-4:
        return f"{value:.{digits - 1}e}"
    # Rounded first: 99.999 has two digits before the point, 100.0 three.
    size = abs(float(f"{value:.{digits - 1}e}"))
    decimals = digits if size == 0 else max(0, digits - 1 - math.floor(math.log10(size)))
    shown = f"{value:,.{decimals}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return shown.rstrip("0").rstrip(".") if size == 0 else shown


def tick(value: float) -> str:
    """Write a round number at an axis, without zeros that say nothing: 0.2, 75, 1 000."""
    shown = number(value, 3)
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown


def grouped(said: Iterable[tuple[str, str]]) -> list[str]:
    """Remarks (about what, what), each said once with the names of all that it is true of."""
    about: dict[str, list[str]] = {}
    for label, remark in said:
        about.setdefault(remark, []).append(label)
    return [f"{'; '.join(labels)}: {remark}" for remark, labels in about.items()]


def interval(low: float | None, high: float | None) -> str:
    """Write an interval by its ends, of which the upper may be infinite."""
    if low is None or high is None:
        return NOT_MEASURED
    return f"{number(low, 3)} to {number(high, 3)}"


def times(value: float | None) -> str:
    """Write a ratio as "1.5 x"."""
    return NOT_MEASURED if value is None else f"{number(value, 3)} x"


def ratio(upper: float | None, lower: float | None) -> float | None:
    """Divide two figures; None where one is unknown or the lower isn't positive."""
    if upper is None or lower is None or lower <= 0:
        return None
    return upper / lower


def megabytes(size_bytes: int) -> str:
    """Write a size in megabytes of 1e6 bytes."""
    return f"{number(size_bytes / 1e6, 3)} MB"


def decibels(value: float | None, *, identical: bool | None) -> str:
    """Write a mean PSNR; pictures that are identical have none."""
    return "identical" if identical else number(value)


def gate(value: float | None) -> str:
    """Write a gate in dB: 100, 55.05."""
    return NOT_MEASURED if value is None else f"{value:.4g}"


def day(when: datetime) -> str:
    """Write a moment as date, hour and minute."""
    return when.strftime("%Y-%m-%d %H:%M")
