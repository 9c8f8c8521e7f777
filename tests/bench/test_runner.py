"""The Python runner by itself: as a device would run it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from cmexport.bench.folder import job_folder
from cmexport.bench.lines import parse_line
from cmexport.bench.outcome import JobOutcome, parity_record


@pytest.fixture
def folder(jobs, quick, tmp_path):
    job_folder(jobs[0], quick, "alone").write(tmp_path)
    return tmp_path


def run(runner, folder, *more, **options):
    done = subprocess.run(
        [sys.executable, str(runner), str(folder), *more], capture_output=True, timeout=120, **options
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def edit(folder, **changes):
    path = folder / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_its_syntax_is_that_of_python_3_8(runner):
    ast.parse(runner.read_text(), feature_version=(3, 8))


def test_alone_it_tells_everything_in_order(runner, folder, jobs):
    code, lines = run(runner, folder, stdin=subprocess.DEVNULL)
    assert code == 0
    before = ["meta", "load", "load", "first", *["output"] * len(jobs[0].runs)]
    after = ["thermal", "look", "samples", "look", "memory", "thermal", "done"]
    assert [line["kind"] for line in lines] == before + after
    outcome = JobOutcome()
    for line in lines:
        outcome.add(parse_line(json.dumps(line).encode()))
    assert parity_record(jobs[0], outcome.outputs, 0, "").passed
    assert len(outcome.blocks[0].ms) >= 6
    assert outcome.meta.realized == "CPUExecutionProvider"
    assert 0 < outcome.memory.before_mb < outcome.memory.peak_mb
    assert outcome.done


def test_repeats_minutes_and_a_result_file(runner, folder):
    edit(folder, repeats=2, sustained_minutes=0.01, watch={"files": ["/proc/uptime", "/no/file"], "interval_ms": 20})
    code, lines = run(runner, folder, "--result", str(folder / "result.jsonl"), stdin=subprocess.DEVNULL)
    assert (code, lines) == (0, [])
    lines = [json.loads(line) for line in (folder / "result.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines if line["kind"] != "raw"]
    assert kinds[-10:-6] == ["idle", "look", "samples", "samples"]
    assert kinds[-6:] == ["look", "minute", "idle", "memory", "thermal", "done"]
    raw = [line for line in lines if line["kind"] == "raw"]
    assert len(raw) > 50
    assert float(raw[0]["texts"]["/proc/uptime"].split()[0]) > 0
    assert raw[0]["texts"]["/no/file"] is None


@pytest.mark.parametrize(
    ("changes", "stage", "message"),
    [
        ({"contract": 9}, "start", "contract 9"),
        ({"target": "tensorrt"}, "start", "onnx and coreml, not tensorrt"),
        ({"target": "coreml"}, "start", "run on macOS"),
        ({"provider": "cuda"}, "load", "CUDAExecutionProvider is not in this ONNX Runtime"),
        ({"model": "model/none.onnx"}, "load", "none.onnx"),
        ({"mode": "served"}, "start", "not a pipe"),
        ({"runs": [{"noise": "inputs/none.bin"}]}, "start", "none.bin"),
        ({"inputs": []}, "start", "KeyError"),
    ],
)
def test_what_goes_wrong_is_an_error_line(runner, folder, changes, stage, message):
    edit(folder, **changes)
    code, lines = run(runner, folder, stdin=subprocess.DEVNULL)
    assert code == 1
    assert lines[-1]["kind"] == "error"
    assert lines[-1]["stage"] == stage
    assert message in lines[-1]["message"]


def test_inputs_of_the_wrong_size(runner, folder):
    (folder / "inputs/0.noise.bin").write_bytes(np.zeros(3, np.float32).tobytes())
    code, lines = run(runner, folder, stdin=subprocess.DEVNULL)
    assert code == 1
    assert "holds 3 numbers, not 192" in lines[-1]["message"]


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", '{"contract": 1}'])
def test_damaged_jobs(runner, tmp_path, content):
    (tmp_path / "job.json").write_text(content)
    code, lines = run(runner, tmp_path, stdin=subprocess.DEVNULL)
    assert code == 1
    assert lines[-1]["kind"] == "error"


def test_the_end_of_input_ends_it_in_the_middle_and_removes_the_folder(runner, jobs, quick, tmp_path):
    """What happens when a connection breaks: no `quit`, just the end of the pipe, while runs are timed."""
    job_folder(jobs[0], replace(quick, min_seconds=600.0), "served").write(tmp_path)
    shutil.copy(runner, tmp_path / "runner.py")
    command = [sys.executable, str(tmp_path / "runner.py"), str(tmp_path), "--remove", str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for line in process.stdout:
            if json.loads(line)["kind"] == "ready":
                break
        process.stdin.write(b'{"do": "samples", "runs": 1, "seconds": 600, "repeat": 0, "round": 0}\n')
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=20) == 3
        assert not tmp_path.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_quit_ends_it_at_once_and_keeps_the_folder(runner, jobs, quick, tmp_path):
    job_folder(jobs[0], quick, "served").write(tmp_path)
    command = [sys.executable, str(runner), str(tmp_path), "--remove", str(tmp_path)]
    done = subprocess.run(command, input=b'{"do": "quit"}\n', capture_output=True, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "job.json").exists()


def test_the_probe_names_modules_and_files(runner):
    done = subprocess.run(
        [sys.executable, str(runner), "--probe", "/proc/vers*", "/no/such*"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["files"]["/proc/version"].startswith("Linux")
    assert found["modules"]["onnxruntime"]
    assert found["device"]["cores"] == os.cpu_count()
