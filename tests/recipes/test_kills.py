"""Runs that end in the middle: by SIGKILL at random moments, by Ctrl-C, by SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PRETENDED = Path(__file__).resolve().parents[1] / "support" / "pretend_cmexport.py"
RECIPE = """
[checkpoint]
file = "m.pt"
[targets.onnx]
precisions = ["fp32", "fp16"]
[targets.coreml]
[devices.local]
[report]
"""
DRIVER = """
import sys
from cmexport.recipes import children
children.PROGRAM = (sys.executable, sys.argv.pop(1), sys.argv.pop(1))
from cmexport.cli.main import run
run()
"""


class Runs:
    """`cmexport run` as a process, with the pretended steps."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        self.notes.mkdir()
        (folder / "m.pt").write_text("weights")
        (folder / "x.toml").write_text(RECIPE)

    def start(self, out: str, seconds: float = 0.1) -> subprocess.Popen[str]:
        """Steps sleep three times `seconds`."""
        (self.notes / "calls").unlink(missing_ok=True)
        command = [sys.executable, "-c", DRIVER, str(PRETENDED), str(self.notes), "run", "x.toml", "-o", out, "--json"]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PRETEND_SECONDS": str(seconds)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run started in the background has SIGINT ignored, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def calls(self) -> list[str]:
        return (self.notes / "calls").read_text().splitlines() if (self.notes / "calls").exists() else []

    def wait_for_calls(self, process: subprocess.Popen[str], number: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.calls()) < number and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    def finish(self, out: str) -> dict:
        stdout, stderr = self.start(out).communicate(timeout=120)
        assert stdout, stderr
        return json.loads(stdout)

    def steps_alive(self) -> list[int]:
        alive = []
        for line in self.calls():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(line.split()[0]))
                if str(PRETENDED) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process.pid)
        return alive


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


TIMINGS = frozenset({"created", "seconds", "p50"})


def without_timings(value):
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in TIMINGS}
    return [without_timings(item) for item in value] if isinstance(value, list) else value


def content(path: Path):
    """A file as it must be the same; keys and hashes in state files follow from files with timings in them."""
    if path.parent.name == "steps":
        state = json.loads(path.read_text())
        return {
            **without_timings(state),
            "key": "",
            "outputs": sorted(state["outputs"]),
            "facts": sorted(state["facts"]),
        }
    if path.suffix in (".json", ".jsonl"):
        return [without_timings(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def tree(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else content(path) for path in folder.rglob("*")}


def test_killed_at_random_moments(runs, tmp_path) -> None:
    runs.finish("calm")
    expected = tree(tmp_path / "calm")
    assert expected["report.html"]
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    moments = random.Random()
    seed = moments.randrange(10**6)
    moments.seed(seed)
    kills = 0
    for _ in range(4):
        process = runs.start("out")
        runs.wait_for_calls(process, moments.randint(1, 3))
        time.sleep(moments.random() * 0.25)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
        deadline = time.monotonic() + 10
        while runs.steps_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not runs.steps_alive(), f"seed {seed}: a step outlives its run"
    assert kills >= 2, f"seed {seed}"
    found = runs.finish("out")
    assert found["exit_code"] == 0, f"seed {seed}: {found}"
    got = tree(out)
    assert got.pop("mine.txt") == b"mine"
    assert got == expected, f"seed {seed}"
    assert list((tmp_path / "out/.cmexport-run/work").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(runs, tmp_path, number) -> None:
    # Three steps are left by then, 3.6 s: beside other work this process may get no turn for one.
    process = runs.start("out", 0.4)
    runs.wait_for_calls(process, 5)  # a third begins after the first was collected
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert "steps are done and kept" in stderr
    assert "interrupted" in stderr.splitlines()[-1]
    assert not runs.steps_alive()
    left = tmp_path / "out" / ".cmexport-run"
    assert list((left / "work").iterdir()) == list((left / "tmp").iterdir()) == []
    assert not (left / "logs").exists()
    done = {line.split(" ends ")[1] for line in runs.calls() if " ends " in line}
    assert done
    statuses = {step["step"]: step["status"] for step in runs.finish("out")["steps"]}
    assert set(statuses.values()) == {"done", "kept"}


def test_the_next_run_waits_for_steps_that_are_still_ending(runs, tmp_path) -> None:
    runs.finish("out")
    lock = tmp_path / "out/.cmexport-run/lock"
    held = f"import fcntl, time; f = open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_EX)"
    code = f"{held}; print(1, flush=True); time.sleep(4)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout.readline()
        assert runs.finish("out")["exit_code"] == 0
        assert orphan.poll() == 0
