"""What a source of energy readings is, and how its readings become one rising series."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cmexport.bench.energy.trace import EnergyTrace
from cmexport.bench.schema import Grade

WANTED_UPDATES = 50
"""Movements of the counter inside a window: the edges of the window then cost about 2 % at worst."""


@dataclass(frozen=True)
class Reading:
    """One look at a source: `values` per rail are cumulative mJ or momentary mW, as its `SourceFacts.kind` says."""

    t_s: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class SourceFacts:
    """What is known of a source before anything is read.

    Attributes:
        name: for the record, e.g. "NVML total energy counter".
        kind: "energy" (cumulative mJ) or "power" (momentary mW).
        grade: A external meter, or rail or counter on the die; B a SoC's own estimates; C battery gauge.
        rails: rails to add up; the others are contained in them, or not part of the device.
        interval_s: how often it moves, by its documentation.
        idle_s: idle to watch on each side.
        settle_s: what goes before each of them: clocks and regulators take a moment to come down.
        wraps_mj: where a cumulative counter starts at zero again.
    """

    name: str
    kind: Literal["energy", "power"]
    grade: Grade
    rails: tuple[str, ...]
    interval_s: float
    idle_s: float = 2.5
    settle_s: float = 1.0
    wraps_mj: Mapping[str, float] = field(default_factory=dict)

    @property
    def window_s(self) -> float:
        """Shortest window that holds enough updates, with a fifth to spare."""
        return 1.2 * WANTED_UPDATES * self.interval_s


class EnergySource(Protocol):
    """Something with rails that can be read again and again. Leaving the context frees it."""

    @property
    def facts(self) -> SourceFacts:
        """What is known of the source: name, rails, grade, timing."""
        ...

    def read(self) -> Reading:
        """Read all rails now; a rail that can't be read is left out.

        Raises:
            OSError: the source has gone.
        """
        ...

    def void(self) -> str:
        """Why its readings mean nothing just now ("" if they do): the battery is charging, say."""
        ...

    def close(self) -> None:
        """Free the source."""
        ...


def monotonic() -> float:
    """Read the clock of all readings: the one that runners report spans in."""
    return time.monotonic()


def trace_of(facts: SourceFacts, readings: Sequence[Reading], void: str = "") -> EnergyTrace | str:
    """Make of readings one trace of cumulative energy per rail, or say why that can't be done.

    Readings that lack a rail are dropped; counters that wrapped are unwrapped; power is integrated by trapezoids.
    """
    complete = [r for r in readings if all(rail in r.values for rail in facts.rails)]
    ordered: list[Reading] = []
    for reading in sorted(complete, key=lambda r: r.t_s):
        if not ordered or reading.t_s > ordered[-1].t_s:
            ordered.append(reading)
    if len(ordered) < 2:
        lacking = sorted({rail for r in readings for rail in facts.rails if rail not in r.values})
        return f"{facts.name}: rail {lacking[0]} could not be read" if lacking else f"{facts.name}: too few readings"
    rails = [rail for rail in ordered[0].values if all(rail in r.values for r in ordered)]
    t_s = [r.t_s for r in ordered]
    mj: dict[str, tuple[float, ...]] = {}
    for rail in rails:
        values = [r.values[rail] for r in ordered]
        if facts.kind == "power":
            mj[rail] = integrate(t_s, values)
            continue
        unwrapped = unwrap(values, facts.wraps_mj.get(rail))
        if unwrapped is None and rail in facts.rails:
            return f"{facts.name}: counter of rail {rail} ran backwards"
        if unwrapped is not None:
            mj[rail] = unwrapped
    return EnergyTrace(
        source=facts.name,
        grade=facts.grade,
        rails=facts.rails,
        t_s=tuple(t_s),
        mj=mj,
        void=void,
        wanted_updates=WANTED_UPDATES,
    )


def unwrap(values: Sequence[float], wrap: float | None) -> tuple[float, ...] | None:
    """Count a cumulative counter on from zero, each fall taken as one lap of `wrap`.

    Returns:
        None where the counter fell and no lap explains it: no `wrap`, or a value beyond it.
    """
    total, result = 0.0, [0.0]
    for before, after in itertools.pairwise(values):
        step = after - before
        if step < 0:
            if wrap is None or before > wrap:
                return None
            step += wrap
        total += step
        result.append(total)
    return tuple(result)


def integrate(t_s: Sequence[float], mw: Sequence[float]) -> tuple[float, ...]:
    """Energy in mJ since the first reading, by trapezoids; mW times seconds are mJ."""
    total, result = 0.0, [0.0]
    for i in range(1, len(t_s)):
        total += 0.5 * (mw[i] + mw[i - 1]) * (t_s[i] - t_s[i - 1])
        result.append(total)
    return tuple(result)


Opener = Callable[[], "EnergySource | str"]
"""Opens a source, or says in one sentence why it can't be had here."""
