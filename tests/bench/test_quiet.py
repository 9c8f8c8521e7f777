"""Whether a figure was disturbed, from made-up clocks; and beside processes that are really busy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmexport.bench.folder import job_folder
from cmexport.bench.lines import parse_line
from cmexport.bench.outcome import JobOutcome
from cmexport.bench.quiet import witnesses
from cmexport.bench.samples import SampleBlock
from cmexport.bench.schema import ValidityRecord


def block(canary=(), others=None, seconds=1.0):
    return SampleBlock(repeat=0, round=0, ms=(1.0,), canary_ms=canary, start_s=5.0, end_s=5.0 + seconds, others=others)


def test_others_are_weighted_with_time():
    heard = witnesses([block(others=0.0, seconds=9.0), block(others=0.5, seconds=1.0)])
    assert heard.others == pytest.approx(0.05)
    assert heard.busy is False
    assert witnesses([block(others=0.3)]).busy is True


def test_a_block_that_saw_nothing_leaves_the_whole_unknown():
    assert witnesses([block(others=0.0), block()]).others is None
    assert witnesses([]).busy is None


def test_where_others_are_hidden_the_canary_speaks():
    assert witnesses([block((1.0,) * 5)]).busy is None, "five are too few"
    assert witnesses([block((1.0, 1.1) * 5)] * 2).busy is False
    slow = witnesses([block((1.0,) * 7 + (4.0,) * 3)] * 2)
    assert slow.canary_slowdown == pytest.approx(1.9)
    assert slow.busy is True
    assert witnesses([block((1.0,) * 7 + (4.0,) * 3, others=0.0)] * 2).busy is False, "who can see need not listen"


def test_records_from_before_are_read():
    old = {"min_runs_met": True, "min_seconds_met": True, "repeats": 1, "reasons": {"spread": "x", "canary_drift": "y"}}
    found = ValidityRecord.model_validate_json(json.dumps(old))
    assert found.others_during is None
    assert found.reasons["others_during"] == "measured before bench looked at other work"
    again = ValidityRecord.model_validate_json(found.model_dump_json())
    assert again == found


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")
def test_the_runner_notices_busy_processes(runner, jobs, quick, tmp_path):
    job_folder(jobs[0], quick, "alone").write(tmp_path)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_seconds": 0.5}))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        command = [sys.executable, str(runner), str(tmp_path)]
        done = subprocess.run(command, capture_output=True, timeout=120, stdin=subprocess.DEVNULL, check=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    outcome = JobOutcome()
    for line in done.stdout.splitlines():
        outcome.add(parse_line(line))
    assert [look.when for look in outcome.looks] == ["before", "after"]
    shares = [*(look.others for look in outcome.looks), *(b.others for b in outcome.samples.blocks)]
    # Two busy processes have at least half of two cores, and something of more.
    assert all(share > 0.5 / len(os.sched_getaffinity(0)) for share in shares), shares


def test_seconds_at_most(runner, jobs, quick, tmp_path):
    job_folder(jobs[0], quick, "alone").write(tmp_path)
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_runs": 1_000_000, "max_seconds": 0.2}))
    command = [sys.executable, str(runner), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=120, stdin=subprocess.DEVNULL, check=True)
    (samples,) = [line for line in map(json.loads, done.stdout.splitlines()) if line["kind"] == "samples"]
    assert 1 <= len(samples["ms"]) < 1_000_000
