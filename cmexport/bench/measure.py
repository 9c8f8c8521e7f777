"""Several artefacts in turns on one device: the order of everything, and what is kept when it is cut short.

    open A, open B | look | warm up | idle | A B B A A B ... (repeats x rounds) | idle | look | minutes of A, of B

Turns make a slow drift of the clock hit all artefacts alike: a table of A and B measured one after the other compares a
cool machine with a warm one. Each artefact has a process of its own that sleeps while it isn't its turn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cmexport.bench.devices.base import BenchJob, MeasureOptions
from cmexport.bench.energy.base import SourceFacts
from cmexport.bench.engines import Engine, EngineGoneError
from cmexport.bench.folder import provider_of
from cmexport.bench.meter import Meter, fit_windows, share
from cmexport.bench.outcome import JobOutcome, device_record, record_of
from cmexport.bench.quiet import BUSY_SHARE
from cmexport.bench.schema import BenchRecord
from cmexport.errors import BackendError
from cmexport.progress import Progress

Starter = Callable[[BenchJob, JobOutcome, tuple[str, ...]], Engine]
"""Starts the runner of a job; the files to watch go to the first one.

Raises:
    EngineGoneError: it can't be started.
"""


@dataclass(frozen=True)
class Place:
    """The device as the records name it."""

    name: str
    kind: str


@dataclass(eq=False)
class _Turn:
    """One artefact and where it stands."""

    job: BenchJob
    outcome: JobOutcome
    engine: Engine | None = None

    @property
    def name(self) -> str:
        return self.job.artifact.name


class _Session:
    """The turns of one command."""

    def __init__(self, turns: Sequence[_Turn], options: MeasureOptions, progress: Progress) -> None:
        self._turns = turns
        self._options = options
        self._progress = progress

    def open(self, start: Starter, watch: tuple[str, ...]) -> None:
        """One after the other, so that none slows another's loading down."""
        for turn in self._turns:
            self._progress.step(f"{turn.name}: open")
            try:
                turn.engine = start(turn.job, turn.outcome, watch if turn is self._turns[0] else ())
                turn.engine.ask(None, "ready")
            except EngineGoneError as error:
                turn.outcome.fail("start", str(error), error.flag)
                self._drop(turn)

    def warm_up(self) -> None:
        for turn in self._alive():
            self._progress.step(f"{turn.name}: warm up")
            self._ask(turn, {"do": "warmup", "runs": self._options.warmup}, "ready")

    def look(self, when: str) -> None:
        """One runner looks for all: they share the machine."""
        self._progress.step(f"other work {when} the runs")
        for turn in self._alive():
            self._ask(turn, {"do": "look", "when": when}, "look")
            if turn.engine is not None:
                for other in self._turns:
                    other.outcome.looks = turn.outcome.looks
                return

    def check_quiet(self) -> None:
        """Better now than after minutes of measuring.

        Raises:
            BackendError: quiet is required, and others are at work.
        """
        shares = [look.others for look in self._turns[0].outcome.looks if look.others is not None]
        if self._options.require_quiet and max(shares, default=0.0) > BUSY_SHARE:
            raise BackendError(
                f"not quiet: other work has {max(shares):.0%} of the processor, {BUSY_SHARE:.0%} are allowed; "
                "end it, or leave --require-quiet out"
            )

    def idle(self, facts: SourceFacts | None) -> None:
        """Measure the idle power, if there is a source, by the clock of the first runner."""
        if facts is not None and self._turns[0].engine is not None:
            self._progress.step("idle")
            time.sleep(facts.settle_s)
            self._ask(self._turns[0], {"do": "idle", "seconds": facts.idle_s}, "idle")

    def rounds(self) -> None:
        """Every second round runs backwards, so that nobody always comes first."""
        options = self._options
        runs = math.ceil(options.min_runs / options.rounds)
        seconds = options.min_seconds / options.rounds
        limit = options.max_seconds and max(options.max_seconds, options.min_seconds) / options.rounds
        total = options.repeats * options.rounds
        for repeat in range(options.repeats):
            for number in range(options.rounds):
                done = repeat * options.rounds + number
                for turn in self._alive()[:: -1 if done % 2 else 1]:
                    self._progress.pictures(f"{turn.name}: rounds", done, total)
                    command = {"do": "samples", "runs": runs, "seconds": seconds, "repeat": repeat, "round": number}
                    command["limit"] = limit
                    self._ask(turn, command, "samples")

    def sustain(self) -> None:
        """One artefact at a time: this is about heat, and heat has a memory."""
        wanted = self._options.sustained_minutes
        for turn in self._alive() if wanted else []:
            for minute in range(math.ceil(wanted)):
                self._progress.pictures(f"{turn.name}: sustained", minute, math.ceil(wanted))
                seconds = min(60.0, 60.0 * (wanted - minute))
                self._ask(turn, {"do": "minute", "minute": minute, "seconds": seconds}, "minute")

    def finish(self) -> None:
        for turn in self._alive():
            self._ask(turn, {"do": "finish"}, "done")

    def close(self) -> None:
        for turn in self._turns:
            self._drop(turn)

    def _alive(self) -> list[_Turn]:
        return [turn for turn in self._turns if turn.engine is not None]

    def _ask(self, turn: _Turn, command: dict[str, object], until: str) -> None:
        if turn.engine is None:
            return
        try:
            turn.engine.ask(command, until)
        except EngineGoneError:
            self._drop(turn)

    @staticmethod
    def _drop(turn: _Turn) -> None:
        engine, turn.engine = turn.engine, None
        if engine is not None:
            engine.close()


def measure(
    place: Place,
    jobs: Sequence[BenchJob],
    start: Starter,
    options: MeasureOptions,
    meter: Meter,
    progress: Progress,
) -> Iterator[BenchRecord]:
    """Measure all jobs and give their records, complete or not.

    Raises:
        BackendError: quiet is required, and others are at work before the first run.
        KeyboardInterrupt: after the records, if there was one during the runs.
        OutputError: a side file of samples can't be written.
    """
    options = fit_windows(options, meter.facts)
    turns = [_Turn(job, JobOutcome()) for job in jobs]
    session = _Session(turns, options, progress)
    interrupted = False
    try:
        session.open(start, meter.watch)
        session.look("before")
        session.check_quiet()
        meter.start()
        session.warm_up()
        session.idle(meter.facts)
        session.rounds()
        session.idle(meter.facts)
        session.look("after")
        session.sustain()
        session.finish()
    except KeyboardInterrupt:
        interrupted = True
        for turn in turns:
            if not turn.outcome.done:
                turn.outcome.flag("interrupted")
    finally:
        session.close()
        meter.stop()
    trace = meter.trace(turns[0].outcome)
    for turn in turns:
        outcome = turn.outcome
        others = tuple(other.name for other in turns if other is not turn)
        yield record_of(
            device_record(place.name, place.kind, outcome.meta, outcome.why),
            turn.job,
            options,
            outcome,
            share(trace, outcome, turns[0].outcome, turn.job.artifact.batch),
            requested=provider_of(turn.job, options),
            compared_with=others,
        )
    if interrupted:
        raise KeyboardInterrupt
