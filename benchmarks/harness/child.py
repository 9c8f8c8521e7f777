"""One engine in its own process: `python -m benchmarks.harness.child SPEC`, then commands on standard input.

One JSON object per line, one answer per command: `{"do": "load"}`, `{"do": "run", "runs": n}`,
`{"do": "picture", "path": file}`, `{"do": "memory"}`. The end of the input ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.engines import KINDS, Engine
from benchmarks.harness.specs import EngineSpec

WARM_UP = 2
"""Untimed runs at the start of a turn (one if the turn is a run or two): caches hold another engine's weights."""

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def resident_bytes(peak: bool = False) -> int:
    """Resident memory now, or (on Linux) its highest value since `forget_peak`."""
    if _STATUS.exists():
        field = "VmHWM:" if peak else "VmRSS:"
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.Process().memory_info().rss)


def forget_peak() -> None:
    """Start a new peak: importing libraries may have needed more for a moment than the model will."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def serve(engine: Engine, commands: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Answer commands until they end."""
    before = 0
    for command in commands:
        match command["do"]:
            case "load":
                engine.prepare()
                forget_peak()
                before = resident_bytes()
                start = time.perf_counter()
                engine.load()
                yield {"seconds": time.perf_counter() - start}
            case "run":
                yield {"seconds": _turn(engine, command["runs"])}
            case "picture":
                np.save(command["path"], engine.picture())
                yield {"arithmetic": engine.arithmetic()}
            case "memory":
                yield {"bytes": max(resident_bytes(peak=True) - before, 0)}
            case unknown:
                yield {"error": f"unknown command {unknown!r}"}


def _turn(engine: Engine, runs: int) -> list[float]:
    for _ in range(min(WARM_UP, (runs + 1) // 2)):
        engine.run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        engine.run()
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    # Libraries print to standard output whenever they like; the answers get a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = EngineSpec.from_json(sys.argv[1])
    replies = serve(KINDS[spec.kind](spec), (json.loads(line) for line in sys.stdin))
    try:
        for reply in replies:
            print(json.dumps(reply), file=answers, flush=True)
    except Exception as error:  # whatever a runtime raises becomes the reason in the table
        lines = str(error).strip().splitlines()
        print(json.dumps({"error": f"{type(error).__name__}: {lines[0] if lines else ''}"}), file=answers, flush=True)
        raise


if __name__ == "__main__":
    main()
