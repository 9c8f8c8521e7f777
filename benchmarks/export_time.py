"""How long exports take and how much memory they hold, one command after the other, each in a process of its own.

    .venv/bin/python benchmarks/export_time.py [--only fp32,two ...] [--rounds 3] [--against OTHER/CHECKOUT]

Prints wall seconds (median, smallest, largest), peak resident memory and the aim. With `--against`, another checkout of
cmexport takes turns with this one, and the ratio of the medians is printed. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks.harness.subjects import IMAGENET64, random_checkpoint  # noqa: E402


@dataclass(frozen=True)
class Case:
    """One command: its arguments after `cmexport`, and the seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    aim_s: float
    imagenet64: bool = False


@dataclass
class Runs:
    """What was measured of one case in one checkout."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)


CASES = (
    Case("fp32", ("onnx",), 12),
    Case("fp16", ("onnx", "--fp16"), 12),
    Case("two", ("onnx", "--steps", "2"), 16),
    Case("int8", ("onnx", "--int8"), 40),
    Case("coreml", ("coreml", "--fp16"), 28),
    Case("tensorrt", ("tensorrt", "--fp16"), 14),
    Case("inpaint8", ("onnx", "--task", "inpaint", "--steps", "8"), 30),
    Case("steps39", ("onnx", "--steps", "39"), 120),
    Case("imagenet64", ("onnx", "--fp16"), 60, imagenet64=True),
)


def run(checkout: Path, case: Case, checkpoint: Path | None) -> tuple[float, float]:
    """Seconds and peak megabytes of one export from a checkout's code."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = str(checkout)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        arguments = [*case.arguments[:1], *([str(checkpoint)] if checkpoint else []), *case.arguments[1:], "-o", folder]
        begun = time.monotonic()
        process = os.posix_spawn(
            sys.executable,
            # -P: the folder that this runs in is no place to import from.
            [sys.executable, "-P", "-m", "cmexport", *arguments],
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
        )
        _, status, usage = os.wait4(process, 0)
        spent = time.monotonic() - begun
        if code := os.waitstatus_to_exitcode(status):
            log.seek(0)
            sys.exit(f"cmexport {' '.join(arguments)}: exit code {code}\n{log.read().decode(errors='replace')}")
    return spent, usage.ru_maxrss / 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"comma-separated, of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn")
    given = parser.parse_args()
    wanted = [case for case in CASES if given.only is None or case.name in given.only.split(",")]
    checkouts = [ROOT, *([given.against.resolve()] if given.against else [])]
    print("| export | s: median [least, most] | peak MB | aim s |" + (" over the other |" if given.against else ""))
    with tempfile.TemporaryDirectory() as folder:
        large = None
        for case in wanted:
            if case.imagenet64 and large is None:
                large = random_checkpoint(Path(folder) / "cd_imagenet64_random.pt", IMAGENET64)
            runs = {checkout: Runs() for checkout in checkouts}
            for _ in range(given.rounds):
                for checkout in checkouts:
                    seconds, peak = run(checkout, case, large if case.imagenet64 else None)
                    runs[checkout].seconds.append(seconds)
                    runs[checkout].peak_mb.append(peak)
            own = runs[ROOT]
            middle = statistics.median(own.seconds)
            row = (
                f"| {case.name} | {middle:.1f} [{min(own.seconds):.1f}, {max(own.seconds):.1f}] "
                f"| {max(own.peak_mb):.0f} | {case.aim_s:.0f} |"
            )
            if given.against:
                other = statistics.median(runs[checkouts[1]].seconds)
                row += f" {middle / other:.2f} ({other:.1f} s) |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
