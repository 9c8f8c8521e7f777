"""Quality, latency and size for several numbers of steps, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cmexport.drawing import source_from_artifact
from cmexport.exporting import ExportOptions, export_model
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.progress import Progress
from cmexport.runner import Array, Runner
from cmexport.sampling.schedules import Schedule
from cmexport.targets.info import LoweringOptions

ROUNDS = 15
_WARM_UP = 2


@dataclass(frozen=True)
class StepsRow:
    """One number of steps.

    Attributes:
        steps: K.
        schedule: the levels, and how they were chosen.
        distance: Fréchet distance of its pictures from real ones; None when no features were named.
        latency_ms: median time of one picture in the target's runtime on this machine.
        bytes: size of the model's files.
    """

    steps: int
    schedule: Schedule
    distance: float | None
    latency_ms: float
    bytes: int


def compare_steps(
    model: ConsistencyModel,
    schedules: Sequence[Schedule],
    distances: Sequence[float | None],
    lowering: LoweringOptions,
    target: str = "onnx",
    progress: Progress | None = None,
) -> tuple[StepsRow, ...]:
    """Export each schedule into a folder that is thrown away, weigh the files and time them in turns.

    Turns (one picture of each, then again) keep a machine that slows down from favouring the first.

    Raises:
        UsageError, BackendError, OutputError: see `export.export_model`.
    """
    tell = progress or Progress()
    with TemporaryDirectory(prefix="cmexport-") as folder, ExitStack() as opened:
        runs, sizes = [], []
        for index, schedule in enumerate(schedules):
            request = SampleRequest(sigmas=schedule.sigmas, schedule=schedule.origin)
            options = ExportOptions(target=target, lowering=lowering, verify=None)
            result = export_model(model, request, options, Path(folder) / str(index), tell)
            sizes.append(sum(f.bytes for f in result.manifest.files if f.role in ("model", "weights")))
            source = source_from_artifact(result.folder)
            inputs = source.signature.draw()
            runs.append((opened.enter_context(source.open()), inputs))
        tell.step("time")
        latencies = time_in_turns(runs)
    return tuple(
        StepsRow(max(1, len(s.sigmas)), s, distance, latency, size)
        for s, distance, latency, size in zip(schedules, distances, latencies, sizes, strict=True)
    )


def time_in_turns(
    runs: Sequence[tuple[Runner, Mapping[str, Array]]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median milliseconds of each runner over `rounds` turns, after two that don't count."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(_WARM_UP + rounds):
        for (runner, inputs), spent in zip(runs, times, strict=True):
            start = clock()
            runner(inputs)
            if turn >= _WARM_UP:
                spent.append((clock() - start) * 1e3)
    return [statistics.median(spent) for spent in times]
