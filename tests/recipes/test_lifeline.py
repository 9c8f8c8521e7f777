"""A step ends with the process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PARENT = """
import os, subprocess, sys, time
from cmexport.recipes.lifeline import Lifeline
line = Lifeline()
environment = {**os.environ, **line.environment(gentle=sys.argv[1] == "gentle")}
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], env=environment, pass_fds=(line.fd,))
print(child.pid, flush=True)
time.sleep(60)
"""
# As on a system whose kernel does not help: the thread alone.
NO_KERNEL = "import sys; sys.platform = 'other'; "
SLEEPS = "from cmexport.recipes.lifeline import follow_parent; follow_parent(); open(FILE, 'w').close(); import time; "
CLEARS_UP = SLEEPS + (
    "import os, signal\n"
    "signal.signal(signal.SIGTERM, lambda *_: (open(FILE + '.cleared', 'w').close(), os._exit(0)))\n"
    "time.sleep(60)"
)
STUBBORN = (
    "import cmexport.recipes.lifeline as l, signal; l.GRACE_S = 0.2; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    + SLEEPS
    + "open(FILE + '.cleared', 'w').close(); time.sleep(60)"
)
BUSY = SLEEPS + "b = 3 ** 20_000_000"  # holds the interpreter's lock for many seconds: no thread can run


@pytest.mark.parametrize(
    ("manner", "code"),
    [
        ("at once", SLEEPS + "time.sleep(60)"),
        ("at once", NO_KERNEL + SLEEPS + "time.sleep(60)"),
        ("gentle", CLEARS_UP),
        ("gentle", STUBBORN),
        pytest.param("at once", BUSY, marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")),
    ],
    ids=["sleeping", "without the kernel", "clearing up", "stubborn", "busy"],
)
def test_a_killed_parent_takes_its_child_along(tmp_path: Path, manner, code) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", PARENT, manner, code.replace("FILE", repr(str(ready)))]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    deadline = time.monotonic() + 30
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert child.is_running()
    parent.kill()
    parent.communicate()
    gone, _ = psutil.wait_procs([child], timeout=4)
    assert gone or child.status() == psutil.STATUS_ZOMBIE
    assert (tmp_path / "ready.cleared").exists() == (manner == "gentle")


def test_a_parent_that_died_before_the_child_asked() -> None:
    code = "from cmexport.recipes.lifeline import follow_parent; follow_parent(); print('alive')"
    environment = {**os.environ, "CMEXPORT_LIFELINE": f"0:{os.getpid() + 1_000_000}:at once"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (137, "")


def test_a_process_of_its_own_follows_nobody(monkeypatch) -> None:
    from cmexport.recipes.lifeline import follow_parent

    monkeypatch.delenv("CMEXPORT_LIFELINE", raising=False)
    follow_parent()
