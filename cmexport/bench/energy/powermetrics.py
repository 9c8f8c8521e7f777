"""Apple's `powermetrics`, as property lists or as text: CPU, GPU and Neural Engine, the vendor's estimates.

    sudo powermetrics --samplers cpu_power,thermal -i 100 -f plist

Plists come one after another, parted by NUL bytes; powers are in mW, `elapsed_ns` is the length of each sample.
"Combined Power" is the sum of the others and must not be added to them.
"""

from __future__ import annotations

import plistlib
import re
from dataclasses import dataclass
from xml.parsers.expat import ExpatError

from cmexport.bench.energy.base import Reading, SourceFacts
from cmexport.errors import CheckpointError

_RAILS = {"cpu": "cpu_power", "gpu": "gpu_power", "ane": "ane_power"}
_SAMPLE = re.compile(r"^\*\*\* Sampled system activity \(.*\) \(([0-9.]+)ms elapsed\) \*\*\*", re.MULTILINE)
_LINE = re.compile(r"^(CPU|GPU|ANE) Power: +([0-9.]+) *(m?W)\s*$", re.MULTILINE)
_PRESSURE = re.compile(r"^Current pressure level: +(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class PowerMetrics:
    """The samples; `pressure` is the system's word for the heat in the last one that has it."""

    readings: tuple[Reading, ...]
    pressure: str | None


def parse_powermetrics(content: bytes) -> PowerMetrics:
    """Read what powermetrics wrote, in either form; each reading is the mean mW up to its time, from the start.

    A last sample that was cut off is left out: powermetrics is ended by a signal.

    Raises:
        CheckpointError: there is no whole sample of power in it.
    """
    stripped = content.lstrip(b"\0\n ")
    found = _plists(stripped) if stripped.startswith(b"<?xml") else _text(content.decode(errors="replace"))
    if not found.readings:
        raise CheckpointError(
            "no power in this output of powermetrics: run it as root with --samplers cpu_power on Apple silicon"
        )
    return found


def _plists(content: bytes) -> PowerMetrics:
    readings: list[Reading] = []
    pressure, t_s = None, 0.0
    for piece in content.split(b"\0"):
        try:
            sample = plistlib.loads(piece.strip(), fmt=plistlib.FMT_XML)
        except (plistlib.InvalidFileException, ExpatError, ValueError, TypeError, IndexError, AttributeError):
            continue
        if not isinstance(sample, dict):
            continue
        elapsed, processor = sample.get("elapsed_ns"), sample.get("processor")
        if not isinstance(elapsed, int) or elapsed <= 0 or not isinstance(processor, dict):
            continue
        t_s += elapsed / 1e9
        found = {rail: processor.get(key) for rail, key in _RAILS.items()}
        values = {rail: float(mw) for rail, mw in found.items() if isinstance(mw, int | float) and mw >= 0}
        if values:
            readings.append(Reading(t_s, values))
        word = sample.get("thermal_pressure")
        pressure = word.lower() if isinstance(word, str) else pressure
    return PowerMetrics(tuple(readings), pressure)


def _text(content: str) -> PowerMetrics:
    heads = list(_SAMPLE.finditer(content))
    ends = [head.start() for head in heads[1:]] + [len(content)] * bool(heads)
    readings: list[Reading] = []
    t_s = 0.0
    for head, end in zip(heads, ends, strict=True):
        t_s += float(head[1]) / 1e3
        lines = _LINE.findall(content[head.end() : end])
        values = {name.lower(): float(value) * (1e3 if unit == "W" else 1.0) for name, value, unit in lines}
        if values:
            readings.append(Reading(t_s, values))
    words = _PRESSURE.findall(content)
    return PowerMetrics(tuple(readings), words[-1].lower() if words else None)


def powermetrics_facts(interval_s: float = 0.1) -> SourceFacts:
    """CPU, GPU and Neural Engine as a source of power, grade B."""
    return SourceFacts("powermetrics", "power", "B", tuple(_RAILS), interval_s)
