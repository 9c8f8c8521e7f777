"""Steps as processes of their own: memory is given back, and a crash stays in its step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmexport.recipes.lifeline import GRACE_S, Lifeline
from cmexport.recipes.steps import Step
from cmexport.recipes.workplace import Workplace
from cmexport.threads import VARIABLE as THREADS

PROGRAM = (sys.executable, "-P", "-m", "cmexport")
"""What runs a step's arguments."""

_PATIENCE_S = GRACE_S + 5.0
"""From SIGTERM to SIGKILL."""
_SHOWN = 300


@dataclass(frozen=True)
class Ended:
    """How a step's process ended.

    Attributes:
        code: exit code, or minus the signal that killed it.
        printed: the JSON object it printed, empty where it printed none.
        complaint: the last lines of its standard error that are an error message, else its last line.
        seconds: how long it ran.
    """

    code: int
    printed: dict[str, Any]
    complaint: str
    seconds: float


class Child:
    """A running step.

    Args:
        step: which one.
        arguments: the whole command line after `cmexport`.
        place: where its files lie; its folders are open.
        lifeline: ends it with this process.
        lock: descriptor of the run's lock, which it holds too.
        threads: its share of the cores.
    """

    def __init__(
        self,
        step: Step,
        arguments: Sequence[str],
        place: Workplace,
        lifeline: Lifeline,
        lock: int,
        threads: int,
    ) -> None:
        self.step = step
        self._place = place
        self._started = time.monotonic()
        environment = {
            **os.environ,
            # The parent's own path, without the current folder: an `onnx.py` lying there must not be imported.
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            # Whatever a killed step leaves lies where the next run clears up.
            "TMPDIR": str(place.tmp(step).absolute()),
            **lifeline.environment(gentle=step.alone),
            THREADS: str(threads),
            # For libraries that size their pools when they are imported.
            "OMP_NUM_THREADS": str(threads),
        }
        with place.printed(step).open("wb") as printed, place.log(step).open("wb") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=log,
                pass_fds=(lifeline.fd, lock),
                # Ctrl-C in the terminal is for the run, which ends its steps.
                start_new_session=True,
            )

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._started

    def poll(self) -> Ended | None:
        """How it ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return Ended(code, self._printed(), _complaint(self._place.log(self.step)), self.seconds)

    def _printed(self) -> dict[str, Any]:
        try:
            found = json.loads(self._place.printed(self.step).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def stop(children: Sequence[Child]) -> None:
    """End steps as Ctrl-C would, and after some seconds for good; a second Ctrl-C shortens the wait."""
    for child in children:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE_S
    with suppress(KeyboardInterrupt):
        while time.monotonic() < deadline and any(child._process.poll() is None for child in children):
            time.sleep(0.05)
    for child in children:
        _signal(child, signal.SIGKILL)
        child._process.wait()


def _signal(child: Child, number: int) -> None:
    """To the step and all in its session."""
    with suppress(ProcessLookupError, PermissionError):
        if child._process.poll() is None:
            os.killpg(child._process.pid, number)


def _complaint(log: Path) -> str:
    """What the command line said last: from its last "error: " on, else the last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    last = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=len(lines) - 1)
    return " ".join(line.strip() for line in lines[max(last, 0) :]).removeprefix("error: ")[:_SHOWN]
