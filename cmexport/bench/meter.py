"""Energy around the runs of several artefacts: when to read, and which stretch belongs to which artefact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from cmexport.bench.devices.base import MeasureOptions
from cmexport.bench.energy.base import EnergySource, SourceFacts, trace_of
from cmexport.bench.energy.local import Sampler
from cmexport.bench.energy.sysfs import SysfsSource
from cmexport.bench.energy.trace import EnergyTrace, Span
from cmexport.bench.outcome import JobOutcome


class Meter(Protocol):
    """Reads energy from before the first run to after the last one."""

    @property
    def facts(self) -> SourceFacts | None:
        """The source; None if there is none."""
        ...

    @property
    def watch(self) -> tuple[str, ...]:
        """Files that the first runner is to watch."""
        ...

    def start(self) -> None:
        """Begin to read the source."""
        ...

    def stop(self) -> None:
        """End; may be called twice."""
        ...

    def trace(self, watched: JobOutcome) -> EnergyTrace | str:
        """All readings, or why there are none; `watched` is the first runner's outcome."""
        ...


@dataclass(frozen=True)
class NoMeter:
    """A meter where no energy can be read, with the reason."""

    reason: str
    facts: SourceFacts | None = None
    watch: tuple[str, ...] = ()

    def start(self) -> None:
        """Do nothing: there is no source."""

    def stop(self) -> None:
        """Do nothing: there is no source."""

    def trace(self, watched: JobOutcome) -> EnergyTrace | str:
        """Give the reason why there are no readings."""
        del watched
        return self.reason


class LocalMeter:
    """A source of this machine, read by a thread of this process."""

    def __init__(self, source: EnergySource) -> None:
        self._source = source
        self._sampler = Sampler(source)
        self._void = ""
        self._running = False

    @property
    def facts(self) -> SourceFacts | None:
        """What is known of the source: name, rails, grade, timing."""
        return self._source.facts

    @property
    def watch(self) -> tuple[str, ...]:
        """No files: the source is read in this process."""
        return ()

    def start(self) -> None:
        """Begin to read the source."""
        self._void = self._source.void()
        self._running = True
        self._sampler.start()

    def stop(self) -> None:
        """End and free the source."""
        if self._running:
            self._running = False
            self._sampler.stop()
            self._void = self._void or self._source.void()
            self._source.close()

    def trace(self, watched: JobOutcome) -> EnergyTrace | str:
        """Make a trace of what the thread read."""
        del watched
        return trace_of(self._source.facts, self._sampler.readings, self._void)


class WatchedMeter:
    """Files of another machine, watched there by its first runner."""

    def __init__(self, source: SysfsSource) -> None:
        self._source = source

    @property
    def facts(self) -> SourceFacts | None:
        """What is known of the source: name, rails, grade, timing."""
        return self._source.facts

    @property
    def watch(self) -> tuple[str, ...]:
        """The source's files, for the first runner to watch."""
        return self._source.files

    def start(self) -> None:
        """Do nothing: the first runner begins to read by itself."""

    def stop(self) -> None:
        """Do nothing: the first runner ends by itself."""

    def trace(self, watched: JobOutcome) -> EnergyTrace | str:
        """Make a trace of the readings that the first runner sent."""
        readings = [self._source.reading(line.t_s, line.texts) for line in watched.raw]
        void = next((said for line in watched.raw if (said := self._source.void(line.texts))), "")
        return trace_of(self._source.facts, readings, void)


def share(trace: EnergyTrace | str, outcome: JobOutcome, watched: JobOutcome, batch: int) -> EnergyTrace | str:
    """Return the whole trace as one artefact's: its windows, its pictures, and the idle stretches of all."""
    if isinstance(trace, str):
        return trace
    idles = [Span(start_s=line.start_s, end_s=line.end_s) for line in watched.idles]
    return trace.model_copy(
        update={
            "active": tuple(Span(start_s=b.start_s, end_s=b.end_s) for b in outcome.blocks),
            "images": batch * sum(len(b.ms) for b in outcome.blocks),
            "idle_before": idles[0] if idles else None,
            "idle_after": idles[-1] if len(idles) > 1 else None,
        }
    )


def fit_windows(options: MeasureOptions, facts: SourceFacts | None) -> MeasureOptions:
    """Windows long enough for the counter: fewer rounds, then more seconds."""
    if facts is None or options.min_seconds / options.rounds >= facts.window_s:
        return options
    seconds = max(options.min_seconds, facts.window_s)
    return replace(options, rounds=max(1, int(seconds / facts.window_s)), min_seconds=seconds)
