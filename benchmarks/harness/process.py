"""The parent's end of a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from benchmarks.harness.specs import EngineSpec

ROOT = Path(__file__).resolve().parents[2]


class EngineFailedError(Exception):
    """An engine could not start or run; the message is the reason for the table."""


def child_environment(threads: int, extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment every process of a benchmark gets: imports from this checkout, one number of threads."""
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *([inherited] if inherited else [])]),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        **(extra or {}),
    }


class EngineProcess:
    """A running engine. Construction starts the process and loads the model.

    Attributes:
        load_s: how long the model took to load, seconds.

    Raises:
        EngineFailedError: the engine is missing or refuses the model.
    """

    def __init__(self, spec: EngineSpec, environment: dict[str, str]) -> None:
        # Lives as long as the process whose last words it takes; `close` closes it.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.child", spec.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        try:
            self.load_s = float(self._ask(do="load")["seconds"])
        except EngineFailedError:
            self.close()
            raise

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise EngineFailedError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise EngineFailedError(reply["error"])
        return reply

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"process ended with {code}: {lines[-1] if lines else 'no message'}"

    def run(self, runs: int) -> list[float]:
        """A turn: warm up, then `runs` timed runs; seconds each."""
        return [float(s) for s in self._ask(do="run", runs=runs)["seconds"]]

    def picture(self, path: Path) -> str:
        """Save the picture as .npy; returns the arithmetic the engine reports."""
        return str(self._ask(do="picture", path=str(path))["arithmetic"])

    def peak_memory(self) -> int:
        """Growth of resident memory since before loading, bytes."""
        return int(self._ask(do="memory")["bytes"])

    def close(self) -> None:
        """End the process and free its memory."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
