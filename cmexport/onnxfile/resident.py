"""Memory of a graph in ONNX Runtime on the CPU: predicted from the file, and measured in a process of its own.

Both count what comes on top of a process that has ONNX Runtime loaded, up to the second picture: the first run takes
its buffers one by one from an arena that grows, and leaves them there; the second has a plan, one block for all.

The prediction's constants were fitted to ONNX Runtime 1.31 on x86: a session takes 8 MB and 6 kB an operator, runs take
2 MB and 8 kB an operator more, and three times what is alive: 1.8 for the arena and 1.2 for the block. Weights inside
the model file are held twice, since they are copied from the message that was read; those beside it are mapped.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmexport.errors import BackendError
from cmexport.onnxfile.liveness import footprint
from cmexport.onnxfile.runner import OnnxRuntimeRunner, has_large_weights
from cmexport.runner import Array

_SESSION, _SESSION_PER_NODE = 8e6, 6e3
_RUNS, _RUNS_PER_NODE = 2e6, 8e3
_ARENA, _BLOCK = 1.8, 1.2
_PICTURES = 2

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Resident:
    """Measured bytes on top of an empty process: after loading, and the most so far after loading and two pictures."""

    loaded: int
    peak: int


def predicted_peak(path: Path) -> int:
    """Predict `Resident.peak` of a file.

    Results are float32, as ONNX Runtime's CPU kernels have them. Weights in half precision are there as they are
    mapped, and in float32: once, where one operator reads them, and among a run's results where several do.

    Raises:
        BackendError: see `footprint`.
    """
    f = footprint(path, widened=True)
    copies = 1 if has_large_weights(path) else 2
    weights = f.stored + f.inside + 2 * (f.halves - f.shared_halves) + 2 * copies * f.shared_halves
    buffers = (_ARENA if has_large_weights(path) else _ARENA + _BLOCK) * f.live + f.workspace
    return round(weights + buffers + _SESSION + _RUNS + (_SESSION_PER_NODE + _RUNS_PER_NODE) * f.nodes)


def measured_peak(path: Path, inputs: Mapping[str, Array], *, timeout_s: float = 3600.0) -> Resident | None:
    """Load a file in a new process, draw two pictures and look at its memory; None where the system does not tell it.

    Raises:
        BackendError: the process failed, or took longer than `timeout_s`.
    """
    if not _STATUS.exists():
        return None
    with tempfile.TemporaryDirectory(prefix="cmexport-peak-") as folder:
        given = Path(folder) / "inputs.npz"
        np.savez(given, **inputs)  # type: ignore[arg-type]  # its second parameter has a name
        command = [sys.executable, "-m", "cmexport.onnxfile.resident", str(path), str(given)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise BackendError(f"{path.name}: measuring its memory took more than {timeout_s:.0f} s") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BackendError(f"{path.name}: ONNX Runtime failed while its memory was measured: {reason[:200]}")
    found = json.loads(done.stdout)
    return Resident(loaded=found["loaded"], peak=found["peak"])


def _main(path: Path, given: Path) -> None:
    """Be the process."""
    with np.load(given) as stored:
        inputs = dict(stored)
    before = _kilobytes("VmRSS")
    with OnnxRuntimeRunner(path) as runner:
        loaded = _kilobytes("VmRSS")
        for _ in range(_PICTURES):
            runner(inputs)
    peak = _kilobytes("VmHWM")
    print(json.dumps({"loaded": 1024 * (loaded - before), "peak": 1024 * (peak - before)}))


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    _main(*map(Path, sys.argv[1:]))
