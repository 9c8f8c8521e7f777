"""ONNX Runtime's own `onnxruntime_perf_test` as a runner: its command line, its input files, its two outputs.

It times runs and sessions well, but keeps its pictures to itself: no parity. Sources: microsoft/onnxruntime,
onnxruntime/test/perftest (README.md, performance_runner.cc, performance_result.h).
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cmexport.bench.devices.base import BenchJob, MeasureOptions
from cmexport.bench.lines import FirstLine, Line, LineError, LoadLine, MemoryLine, SamplesLine

NO_PICTURES = "onnxruntime_perf_test does not give its outputs; use Python on the phone, or a runner that does"
_PROVIDERS = {"cpu": "cpu", "xnnpack": "xnnpack", "nnapi": "nnapi", "qnn": "qnn"}
_SECONDS = re.compile(r"^Session creation time cost:\s*([\d.eE+-]+) s", re.MULTILINE)
_FIRST = re.compile(r"^First inference time cost:\s*(\d+) ms", re.MULTILINE)
_AVERAGE = re.compile(r"^Average inference time cost(?: total)?:\s*([\d.eE+-]+) ms", re.MULTILINE)
_PEAK = re.compile(r"^Peak working set size:\s*(\d+)", re.MULTILINE)


def is_perf_test(path: Path) -> bool:
    """Whether a native runner is that program, by its name."""
    return "perf_test" in path.name


def input_files(job: BenchJob) -> dict[str, bytes]:
    """Run 0's inputs as the program wants them: `test_data_set_0/input_I.pb` beside the model."""
    from onnx import numpy_helper

    return {
        f"model/test_data_set_0/input_{i}.pb": numpy_helper.from_array(
            job.runs[0][spec.name].astype(spec.dtype), spec.name
        ).SerializeToString()
        for i, spec in enumerate(job.signature.inputs)
    }


def command(folder: str, program: str, job: BenchJob, options: MeasureOptions, provider: str, repeat: int) -> str:
    """Return the shell command of one repeat; its raw times go to `folder/times.REPEAT.csv`."""
    words = [f"./{program}", "-e", _PROVIDERS.get(provider, provider), "-o", "99"]
    words += ["-x", str(options.threads)] if options.threads else []
    # The program ends by runs or by seconds, not by both; which of the two is longer is not known before.
    words += ["-m", "duration", "-t", str(max(1, math.ceil(options.min_seconds)))]
    words += [f"model/{job.files[0]}", f"times.{repeat}.csv"]
    return f"cd {shlex.quote(folder)} && LD_LIBRARY_PATH=. {shlex.join(words)}"


@dataclass(frozen=True)
class PerfTestTimes:
    """One repeat: `ms` of every timed run, in order."""

    ms: tuple[float, ...]
    load_ms: float | None
    first_ms: float | None
    peak_mb: float | None

    def lines(self, repeat: int) -> list[Line]:
        """Write the repeat's raw times as lines of the contract."""
        lines: list[Line] = []
        if repeat == 0 and self.load_ms is not None:
            lines.append(LoadLine(kind="load", ms=self.load_ms, cold=True))
        if repeat == 0 and self.first_ms is not None:
            lines.append(FirstLine(kind="first", ms=self.first_ms))
        # The program's own clock is not told: the runs lie one after the other, from 0 on.
        lasted = math.fsum(self.ms) / 1e3
        lines.append(SamplesLine(kind="samples", repeat=repeat, round=0, ms=list(self.ms), start_s=0.0, end_s=lasted))
        if self.peak_mb is not None:
            why = dict.fromkeys(("before", "after"), "onnxruntime_perf_test tells the peak only")
            lines.append(
                MemoryLine(
                    kind="memory", peak_mb=self.peak_mb, method="onnxruntime_perf_test's peak working set", why=why
                )
            )
        return lines


def parse_times(said: str, csv: str) -> PerfTestTimes:
    """Read what the program printed and its file of times: `model,time,peak bytes,CPU %,run`.

    The file's unit is not written in it, and was nanoseconds once; the printed average in milliseconds tells.

    Raises:
        LineError: the two don't fit together, or one of them is something else.
    """
    times: list[float] = []
    for number, line in enumerate(csv.splitlines(), 1):
        if not line.strip():
            break  # statistics follow
        fields = line.rsplit(",", 4)
        try:
            times.append(float(fields[1]))
        except (IndexError, ValueError):
            raise LineError(f"onnxruntime_perf_test's times, line {number}: not `model,time,...`") from None
    average = _AVERAGE.search(said)
    if not times or average is None or not all(math.isfinite(t) and t >= 0 for t in times):
        raise LineError("onnxruntime_perf_test gave no times; run it by hand on the phone to see why")
    mean = math.fsum(times) / len(times)
    told = float(average[1])
    scale = next((s for s in (1e3, 1e-6) if math.isclose(mean * s, told, rel_tol=0.05)), None)
    if scale is None:
        raise LineError(f"onnxruntime_perf_test's times average {mean:.4g}, but it printed {told:.4g} ms")
    load, first, peak = _SECONDS.search(said), _FIRST.search(said), _PEAK.search(said)
    return PerfTestTimes(
        ms=tuple(t * scale for t in times),
        load_ms=float(load[1]) * 1e3 if load else None,
        first_ms=float(first[1]) if first else None,
        peak_mb=int(peak[1]) / 1e6 if peak else None,
    )
