"""Raw samples in a side file, and the figures that are computed from them: pure functions, so that anybody can check.

The file is JSON, named by the SHA-256 of its content. `timing_from_samples`, `sustained_from_samples` and
`cmexport.bench.energy.window.energy_from_trace` give the record's figures again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, ValidationError

from cmexport.artifact import write_atomically
from cmexport.bench.energy.trace import EnergyTrace
from cmexport.bench.schema import (
    MinuteRecord,
    NonNegative,
    Positive,
    Section,
    SustainedRecord,
    TimingRecord,
    first_fault,
)
from cmexport.errors import CheckpointError, OutputError
from cmexport.files import require_file

P99_SAMPLES = 200
"""Below this the 99th percentile is one or two samples, and says which programs else were running."""

UNSTABLE = 0.05
"""Medians of repeats further apart than this are not one figure (MLPerf Mobile's rule for replicating a result)."""

THROTTLED = 1.10
"""A canary slower than this times its start: the clock went down."""

_MAX_BYTES = 256_000_000


class SampleBlock(Section):
    """One batch of timed runs; `start_s` and `end_s` on the device's monotonic clock.

    `others` is the share of the processor's time that other programs had meanwhile.
    """

    no_reason_needed: ClassVar[frozenset[str]] = frozenset({"others"})

    repeat: NonNegativeInt
    round: NonNegativeInt
    ms: tuple[NonNegative, ...] = Field(min_length=1)
    canary_ms: tuple[Positive, ...] = ()
    start_s: float
    end_s: float
    others: Annotated[float, Field(ge=0, le=1)] | None = None


class MinuteSamples(Section):
    """One minute of a sustained run."""

    minute: NonNegativeInt
    ms: tuple[NonNegative, ...] = Field(min_length=1)
    canary_ms: tuple[Positive, ...] = ()
    celsius: float | None = None


class RawSamples(Section):
    """Everything that was timed; `trace` is null when no energy was read."""

    schema_version: Literal[1] = 1
    load_cold: NonNegative | None = None
    load_warm: NonNegative | None = None
    first: NonNegative | None = None
    blocks: tuple[SampleBlock, ...] = ()
    minutes: tuple[MinuteSamples, ...] = ()
    trace: EnergyTrace | None = None

    @property
    def ms(self) -> list[float]:
        """All timed runs, in order."""
        return [value for block in self.blocks for value in block.ms]


def percentile(values: Sequence[float], percent: float) -> float:
    """Percentile with linear interpolation between the sorted values.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values")
    return float(np.percentile(np.asarray(values, dtype=np.float64), percent))


def timing_from_samples(samples: RawSamples, path: str | None = None) -> TimingRecord:
    """Percentiles of the samples; `path` is what the record calls the side file."""
    loads = {"load_cold": samples.load_cold, "load_warm": samples.load_warm, "first": samples.first}
    why = {name: samples.reasons.get(name, "") for name in loads}
    why["samples"] = "raw samples were not kept"
    ms = samples.ms
    if not ms:
        why[""] = samples.reasons.get("blocks", "no run was timed")
        return TimingRecord.known(why, **loads, n=0, samples=path)
    why["p99"] = f"{len(ms)} samples; a 99th percentile needs {P99_SAMPLES}"
    return TimingRecord.known(
        why,
        **loads,
        n=len(ms),
        p50=percentile(ms, 50),
        p90=percentile(ms, 90),
        p99=percentile(ms, 99) if len(ms) >= P99_SAMPLES else None,
        iqr=percentile(ms, 75) - percentile(ms, 25),
        min=min(ms),
        max=max(ms),
        mean=float(np.mean(ms)),
        samples=path,
    )


def repeat_medians(samples: RawSamples) -> tuple[float, ...]:
    """Return the median of each repeat, in order."""
    repeats = sorted({block.repeat for block in samples.blocks})
    return tuple(percentile([v for b in samples.blocks if b.repeat == r for v in b.ms], 50) for r in repeats)


def spread(medians: Sequence[float]) -> float | None:
    """Largest over smallest, minus 1; None for fewer than two."""
    return max(medians) / min(medians) - 1.0 if len(medians) > 1 and min(medians) > 0 else None


def canary_drift(samples: RawSamples) -> float | None:
    """Canary of the last block over that of the first, minus 1; None without two of them."""
    found = [median(block.canary_ms) for block in samples.blocks if block.canary_ms]
    return found[-1] / found[0] - 1.0 if len(found) > 1 else None


def sustained_from_samples(samples: RawSamples) -> SustainedRecord | None:
    """Return the minutes' medians and what they come to; None without minutes."""
    if not samples.minutes:
        return None
    minutes = tuple(_minute(m) for m in samples.minutes)
    steady = minutes[-max(1, len(minutes) // 3) :]
    canaries = [m.canary_ms for m in minutes if m.canary_ms is not None]
    complete = len(canaries) == len(minutes)
    steady_p50 = median(m.p50_ms for m in steady)
    throttled = next((m.minute for m in minutes if m.canary_ms and m.canary_ms > THROTTLED * canaries[0]), None)
    return SustainedRecord.known(
        {
            "canary_slowdown": "the runner has no canary",
            "time_to_throttle_s": "never: no minute's canary was 10 % slower than the first's"
            if complete
            else "the runner has no canary",
        },
        minutes=minutes,
        first_p50_ms=minutes[0].p50_ms,
        steady_p50_ms=steady_p50,
        slowdown=steady_p50 / minutes[0].p50_ms,
        canary_slowdown=median(canaries[-len(steady) :]) / canaries[0] if complete else None,
        time_to_throttle_s=60.0 * throttled if complete and throttled is not None else None,
    )


def _minute(samples: MinuteSamples) -> MinuteRecord:
    return MinuteRecord.known(
        {"canary_ms": "the runner has no canary", "celsius": samples.reasons.get("celsius", "")},
        minute=samples.minute,
        n=len(samples.ms),
        p50_ms=percentile(samples.ms, 50),
        p90_ms=percentile(samples.ms, 90),
        canary_ms=median(samples.canary_ms) if samples.canary_ms else None,
        celsius=samples.celsius,
    )


def write_samples(folder: Path, samples: RawSamples) -> str:
    """Write a side file into `folder` (made if missing); its path relative to the folder's parent.

    Raises:
        OutputError: the disk refuses.
    """
    content = samples.model_dump_json(exclude_defaults=True).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be made: {error.strerror}; choose another file with -o") from error
    write_atomically(folder / name, content)
    return f"{folder.name}/{name}"


def read_samples(path: Path) -> RawSamples:
    """Read a side file and check it against its name.

    Raises:
        CheckpointError: missing, damaged, or changed since it was written.
    """
    require_file(path, "a file of samples")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes is no file of samples")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != path.stem:
        raise CheckpointError(f"{path}: changed since it was measured (its SHA-256 is not its name)")
    try:
        return RawSamples.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: not raw samples: {first_fault(error)}") from error
