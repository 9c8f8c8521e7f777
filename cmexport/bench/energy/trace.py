"""The readings of one energy source over a run, as they are kept with the raw samples."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, model_validator

from cmexport.artifact.schema import Record
from cmexport.bench.schema import Grade


class Span(Record):
    """A stretch of time in seconds, on the clock of the readings."""

    start_s: float
    end_s: float

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.end_s < self.start_s:
            raise ValueError("a span that ends before it starts")
        return self


class EnergyTrace(Record):
    """Cumulative energy per rail, unwrapped, and what happened when.

    Attributes:
        source: what was read.
        grade: what a figure from it is worth at best.
        rails: those that are added up for the figure.
        t_s: time of each reading, rising.
        mj: for every rail, millijoules since the first reading; also rails that are not added up.
        idle_before: before the runs.
        idle_after: after them.
        active: the windows of timed runs of one artefact.
        images: pictures made in those windows.
        void: why no figure may be computed ("" if one may): the battery was charging, ...
        wanted_updates: movements of the counter that a figure needs.
    """

    source: str
    grade: Grade
    rails: tuple[str, ...] = Field(min_length=1)
    t_s: tuple[float, ...]
    mj: dict[str, tuple[float, ...]]
    idle_before: Span | None = None
    idle_after: Span | None = None
    active: tuple[Span, ...] = ()
    images: NonNegativeInt = 0
    void: str = ""
    wanted_updates: NonNegativeInt = 50

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if missing := [rail for rail in self.rails if rail not in self.mj]:
            raise ValueError(f"no readings of rail {missing[0]}")
        if any(len(series) != len(self.t_s) for series in self.mj.values()):
            raise ValueError("rails with different numbers of readings")
        if any(b <= a for a, b in zip(self.t_s, self.t_s[1:], strict=False)):
            raise ValueError("readings out of order")
        return self
