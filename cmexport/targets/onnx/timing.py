"""How long ONNX files take on this machine, as ratios to the first of them.

Each file has a process of its own, and they take turns: six sessions in one process took the same file from 15.6 to
35.7 ms (spinning thread pools), and a machine's clock drifts within seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from cmexport.errors import BackendError
from cmexport.threads import may_spin, threads

TURNS = 9
RUNS = 12
"""Per turn; with 9 turns a ratio repeats within 3 %."""

_CHILD = """
import json, sys, time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level = 3
options.intra_op_num_threads = int(sys.argv[2])
options.add_session_config_entry("session.intra_op.allow_spinning", sys.argv[3])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
drawn = np.random.default_rng(0)
feeds = {
    i.name: np.zeros(i.shape, np.int64) if i.type == "tensor(int64)" else drawn.standard_normal(i.shape, np.float32)
    for i in session.get_inputs()
}
for _ in range(3):
    session.run(None, feeds)
print("ready", flush=True)
for line in sys.stdin:
    times = []
    for _ in range(int(line)):
        begin = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - begin)
    print(json.dumps(times), flush=True)
"""


def latency_ratios(files: Sequence[Path], turns: int = TURNS, runs: int = RUNS) -> tuple[float, ...]:
    """Median time of each file over that of the first, turn by turn.

    Raises:
        BackendError: ONNX Runtime does not load or run a file.
    """
    # Asked once: a file that is being opened must not decide how the next one waits.
    spin = "1" if may_spin() else "0"
    with ExitStack() as stack:
        children = [stack.enter_context(_child(path, spin)) for path in files]
        times: list[list[float]] = [[] for _ in files]
        for turn in range(turns):
            order = range(len(files)) if turn % 2 == 0 else reversed(range(len(files)))
            for index in order:
                times[index].append(_ask(children[index], files[index], runs))
        return tuple(median(mine / first for mine, first in zip(one, times[0], strict=True)) for one in times)


@contextmanager
def _child(path: Path, spin: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path), str(threads()), spin],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        if child.stdout.readline().strip() != "ready":
            raise BackendError(f"{path.name}: ONNX Runtime can't load this file, so its latency can't be measured")
        yield child
    finally:
        child.kill()
        child.wait()


def _ask(child: subprocess.Popen[str], path: Path, runs: int) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(f"{runs}\n")
        child.stdin.flush()
        return float(median(json.loads(child.stdout.readline())))
    except (OSError, ValueError) as error:
        raise BackendError(f"{path.name}: ONNX Runtime stopped while its latency was measured") from error
