"""The order of turns and what is kept, with engines that only pretend to run."""

from __future__ import annotations

import base64
import json
import queue
from dataclasses import replace

import numpy as np
import pytest

from cmexport.bench.energy.base import Reading, SourceFacts, trace_of
from cmexport.bench.engines import Engine, EngineGoneError
from cmexport.bench.measure import Place, measure
from cmexport.bench.meter import NoMeter, fit_windows
from cmexport.bench.samples import read_samples, timing_from_samples
from cmexport.errors import BackendError
from cmexport.progress import Progress


class Script:
    """A pipe with a runner of made-up times behind it."""

    def __init__(self, job, log, times=None, die_at=None, corrupt=False, others=(None, None, None)):
        self.lines = queue.Queue()
        self.closed = False
        self._job, self._log, self._clock = job, log, 0.0
        self._before, self._during, self._after = others
        self._times, self._die_at, self._answered = times or (lambda repeat: 10.0), die_at, 0
        self.tell(
            "meta", contract=1, runner="script", runtime="none", realized="cpu", threads=1, why={"placement": "none"}
        )
        self.tell("load", ms=5.0, cold=True)
        self.tell("load", ms=4.0, cold=False)
        self.tell("first", ms=12.0)
        for index in range(len(job.runs)):
            image = job.expected.images[index : index + 1]
            image = image + 0.5 if corrupt else image
            data = base64.b64encode(image.astype("<f4").tobytes()).decode()
            self.tell("output", run=index, name="image", dtype="float32", shape=list(image.shape), data=data)
        self.tell("ready")

    def tell(self, kind, **fields):
        self.lines.put(json.dumps({"kind": kind, **fields}).encode())

    def write(self, text):
        command = json.loads(text)
        if command["do"] == "look":
            share = self._before if command["when"] == "before" else self._after
            self.tell("look", when=command["when"], others=share, why={} if share is not None else {"others": "blind"})
            return
        self._log.append((self._job.artifact.precision, command["do"], command.get("repeat"), command.get("round")))
        self._answered += 1
        if self._die_at == self._answered:
            self.lines.put(EngineGoneError("the runner was killed by signal 9", None))
            return
        if command["do"] == "warmup":
            self.tell("ready")
        elif command["do"] == "samples":
            start, self._clock = self._clock, self._clock + command["seconds"]
            ms = [self._times(command["repeat"])] * command["runs"]
            self.tell(
                "samples",
                repeat=command["repeat"],
                round=command["round"],
                ms=ms,
                canary_ms=[1.0],
                start_s=start,
                end_s=self._clock,
                others=self._during,
            )
        elif command["do"] == "minute":
            self.tell("minute", minute=command["minute"], ms=[10.0 + command["minute"]], canary_ms=[1.0], celsius=50.0)
        elif command["do"] == "finish":
            self.tell("memory", before_mb=1, peak_mb=3, after_mb=2, method="made up")
            self.tell("done")

    def close(self):
        self.closed = True


def go(jobs, options, progress=None, **scripts):
    log, pipes = [], []

    def start(job, outcome, watch):
        pipes.append(Script(job, log, **scripts.get(job.artifact.precision, {})))
        return Engine(pipes[-1], outcome)

    records = measure(Place("somewhere", "local"), jobs, start, options, NoMeter("no counter"), progress or Progress())
    return records, log, pipes


def test_turns_are_interleaved_and_reversed(jobs, quick):
    records, log, pipes = go(jobs, quick)
    found = list(records)
    turns = [(who, number) for who, what, _, number in log if what == "samples"]
    assert turns == [("fp32", 0), ("fp16", 0), ("fp16", 1), ("fp32", 1)]
    assert [r.timing_ms.n for r in found] == [6, 6]
    assert found[0].timing_ms.p50 == 10.0
    assert found[0].provenance.compared_with == (found[1].artifact.name,)
    assert found[0].energy.reasons["mj_per_image_net"] == "no counter"
    assert found[0].parity.identical
    assert found[0].parity.mean_db is None
    assert found[0].validity.flags == ()
    assert all(pipe.closed for pipe in pipes)


@pytest.mark.parametrize(("second", "flags"), [(10.4, ()), (10.6, ("unstable",))])
def test_repeats_must_agree_within_five_percent(jobs, quick, second, flags):
    records, _, _ = go(jobs[:1], replace(quick, repeats=2), fp32={"times": lambda r: (10.0, second)[r]})
    (record,) = records
    assert record.validity.repeat_p50_ms == (10.0, second)
    assert record.validity.spread == pytest.approx(second / 10 - 1)
    assert record.validity.flags == flags


def test_a_runner_that_dies_keeps_its_rounds_and_the_others_go_on(jobs, quick, tmp_path):
    options = replace(quick, samples=tmp_path / "s")
    records, _, _ = go(jobs, options, fp32={"die_at": 3})
    first, second = records
    assert first.failure.message == "the runner was killed by signal 9"
    assert first.timing_ms.n == 3
    assert "too_few_runs" in first.validity.flags
    assert first.memory_mb.peak is None
    assert "killed" in first.memory_mb.reasons["peak"]
    assert second.failure is None
    assert second.timing_ms.n == 6
    for record in (first, second):
        raw = read_samples(tmp_path / record.timing_ms.samples)
        assert timing_from_samples(raw, record.timing_ms.samples) == record.timing_ms


def test_ctrl_c_gives_the_records_then_ends(jobs, quick):
    def stop(_name, done, _total):
        if done == 1:
            raise KeyboardInterrupt

    records, _, pipes = go(jobs, quick, Progress(pictures=stop))
    found = [next(records), next(records)]
    assert [r.timing_ms.n for r in found] == [3, 3]
    assert all("interrupted" in r.validity.flags for r in found)
    assert "interrupted" in found[0].memory_mb.reasons["peak"]
    with pytest.raises(KeyboardInterrupt):
        next(records)
    assert all(pipe.closed for pipe in pipes)


def test_pictures_that_differ_keep_their_times_and_a_flag(jobs, quick):
    (record,) = go(jobs[:1], quick, fp32={"corrupt": True})[0]
    assert record.parity.passed is False
    assert record.parity.mean_db < 20
    assert "parity_failed" in record.validity.flags
    assert record.timing_ms.p50 == 10.0


def test_sustained_minutes(jobs, quick):
    (record,) = go(jobs[:1], replace(quick, sustained_minutes=2.5))[0]
    assert [m.p50_ms for m in record.sustained.minutes] == [10.0, 11.0, 12.0]
    assert record.sustained.minutes[0].celsius == 50.0
    assert record.sustained.slowdown == pytest.approx(1.2)


def test_output_that_is_no_line_is_a_failure(jobs, quick):
    records, _, pipes = go(jobs[:1], quick)

    def garble(_name):
        pipes[0].lines.queue.insert(0, b"Segmentation fault\n") if pipes else None

    records, _, pipes = go(jobs[:1], quick, Progress(step=garble))
    (record,) = records
    assert "not JSON" in record.failure.message
    assert "malformed_output" in record.validity.flags


def test_windows_grow_with_the_counters_pace(quick):
    slow = SourceFacts("NVML", "energy", "A", ("gpu0",), 0.1)
    fast = SourceFacts("RAPL", "energy", "A", ("package-0",), 0.02)
    options = replace(quick, rounds=5, min_seconds=10.0)
    assert fit_windows(options, None) == options
    assert fit_windows(options, fast) == options
    assert fit_windows(options, slow).rounds == 1
    assert fit_windows(replace(options, min_seconds=2.0), slow).min_seconds == pytest.approx(6.0)
    assert fit_windows(replace(options, min_seconds=18.0), slow).rounds == 3


class Meter:
    """30 W idle, 130 W in the windows, on the script's own clock."""

    facts = SourceFacts("made up", "power", "B", ("soc",), 0.05, idle_s=2.5, settle_s=0.0)
    watch = ()

    def start(self):
        pass

    def stop(self):
        pass

    def trace(self, watched):
        busy = watched.blocks
        readings = []
        for i in range(4000):
            t = i * 0.01 - 10
            on = any(b.start_s <= t <= b.end_s for b in busy)
            readings.append(Reading(t, {"soc": (130e3 if on else 30e3) + i % 2}))
        return trace_of(self.facts, readings)


def test_energy_from_a_meter(jobs, quick):
    log = []

    class Idle(Script):
        def write(self, text):
            if json.loads(text)["do"] == "idle":
                before = self._clock == 0.0
                start = -4.0 if before else self._clock + 0.5
                self.tell("idle", start_s=start, end_s=start + 2.5)
            else:
                super().write(text)

    options = replace(quick, min_seconds=10.0, rounds=2)
    (record,) = measure(
        Place("x", "local"),
        jobs[:1],
        lambda job, outcome, watch: Engine(Idle(job, log), outcome),
        options,
        Meter(),
        Progress(),
    )
    energy = record.energy
    assert energy.grade == "B"
    assert energy.idle_before_w == pytest.approx(30, rel=0.01)
    assert energy.mj_per_image_net == pytest.approx(100e3 * 10 / 6, rel=0.02)
    assert energy.images == 6
    assert np.isfinite(energy.ci95_mj_per_image).all()


@pytest.mark.parametrize(
    ("others", "busy"), [((0.0, 0.05, 0.0), False), ((0.0, 0.5, 0.0), True), ((0.9, 0.02, 0.9), False)]
)
def test_other_work_while_runs_are_timed_is_flagged(jobs, quick, others, busy):
    records, _, _ = go(jobs, replace(quick, min_seconds=1.0), fp32={"others": others}, fp16={"others": others})
    for record in records:
        seen = (record.validity.others_before, record.validity.others_during, record.validity.others_after)
        assert seen == pytest.approx(others)
        assert ("busy" in record.validity.flags) is busy


def test_what_cannot_be_seen_is_null_with_a_reason(jobs, quick):
    (record,) = go(jobs[:1], quick)[0]
    validity = record.validity
    assert (validity.others_before, validity.others_during, validity.others_after) == (None, None, None)
    assert validity.reasons["others_before"] == "blind"
    assert validity.reasons["others_during"] == "this runner can't see other programs"
    assert "busy" not in validity.flags


def test_quiet_is_required_before_the_first_run(jobs, quick):
    records, log, pipes = go(jobs, replace(quick, require_quiet=True), fp32={"others": (0.4, 0.4, 0.4)})
    with pytest.raises(BackendError, match=r"not quiet: other work has 40% of the processor, 10% are allowed"):
        list(records)
    assert log == [], "nothing was run"
    assert all(pipe.closed for pipe in pipes)


def test_seconds_at_most_are_shared_by_the_rounds(jobs, quick):
    sent = []

    class Noting(Script):
        def write(self, text):
            sent.append(json.loads(text))
            super().write(text)

    def start(job, outcome, watch):
        return Engine(Noting(job, []), outcome)

    for most, limit in ((30.0, 15.0), (0.0, 0.0), (1.0, 2.0)):
        sent.clear()
        options = replace(quick, min_seconds=4.0, max_seconds=most)
        list(measure(Place("x", "local"), jobs[:1], start, options, NoMeter("no counter"), Progress()))
        # Never less than the seconds that are wanted at least.
        assert {command["limit"] for command in sent if command["do"] == "samples"} == {limit}
