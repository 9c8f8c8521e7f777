"""A record with every figure that its raw samples give, and what disagrees with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from cmexport.bench.energy.window import energy_from_trace
from cmexport.bench.records import samples_folder, samples_of
from cmexport.bench.samples import (
    RawSamples,
    canary_drift,
    repeat_medians,
    spread,
    sustained_from_samples,
    timing_from_samples,
)
from cmexport.bench.schema import BenchRecord, EnergyRecord, SustainedRecord, TimingRecord
from cmexport.errors import CheckpointError
from cmexport.report.gathering import FoundArtifact, FoundRecord

Origin = Literal["samples", "record", "missing", "changed"]
ORIGINS: dict[Origin, str] = {
    "samples": "computed from the raw samples",
    "record": "as recorded: no raw samples were kept",
    "missing": "as recorded: the file of samples is not here",
    "changed": "as recorded: the file of samples is damaged or was changed",
}
_TOLERANCE = 1e-9
"""Relative. The same sums on another processor differ in the last bits, about 1e-16 each."""


@dataclass(frozen=True)
class Run:
    """A record whose figures were computed again from raw samples.

    Attributes:
        found: the record as it stands in its file.
        origin: where `timing`, `energy` and `sustained` come from.
        complaint: why not from the samples.
        timing: milliseconds.
        energy: millijoules per picture.
        sustained: minutes of back-to-back runs.
        ms: all timed runs; empty without samples.
        artifact: the artefact with the same model file, where it is at hand.
        disagreements: figures of the record that its samples don't give.
    """

    found: FoundRecord
    origin: Origin
    complaint: str
    timing: TimingRecord
    energy: EnergyRecord
    sustained: SustainedRecord | None
    ms: tuple[float, ...]
    artifact: FoundArtifact | None
    disagreements: tuple[str, ...]

    @property
    def record(self) -> BenchRecord:
        """The record as it stands in its file."""
        return self.found.record

    @property
    def ms_per_picture(self) -> float | None:
        """Median time of one picture: of one run of the graph over its batch."""
        return None if self.timing.p50 is None else self.timing.p50 / self.record.artifact.batch

    @property
    def mark(self) -> str:
        """What must stand beside every time of this run: a word where other work took part, else nothing."""
        return " (busy)" if "busy" in self.record.validity.flags and self.timing.p50 is not None else ""

    @property
    def evaluations(self) -> int:
        """Network evaluations per picture."""
        return self.record.artifact.steps if self.artifact is None else self.artifact.evaluations

    @property
    def sampler(self) -> str:
        """`consistency` or `heun`; of records from before they told it, their artefact's."""
        return self.record.artifact.sampler if self.artifact is None else self.artifact.manifest.sampling.sampler


def recompute(found: FoundRecord, artifacts: Sequence[FoundArtifact]) -> Run:
    """Compute a record's figures from its samples, where they are."""
    record = found.record
    artifact = next((a for a in artifacts if _same(a, record)), None)
    raw, origin, complaint = _raw(found)
    if raw is None:
        figures = (record.timing_ms, record.energy, record.sustained, ())
        return Run(found, origin, complaint, *figures, artifact, ())
    try:
        timing = timing_from_samples(raw, record.timing_ms.samples)
        energy = record.energy if raw.trace is None else energy_from_trace(raw.trace)
        sustained = sustained_from_samples(raw)
    except (ValueError, ArithmeticError, LookupError):
        # Numbers that no device gives, such as a first minute of 0 ms.
        where = f"{found.file}: the samples of {record.artifact.name} give no figures"
        return Run(found, "changed", where, record.timing_ms, record.energy, record.sustained, (), artifact, ())
    disagreements = tuple(_disagreements(record, raw, timing, energy, sustained))
    return Run(found, origin, complaint, timing, energy, sustained, tuple(raw.ms), artifact, disagreements)


def _same(artifact: FoundArtifact, record: BenchRecord) -> bool:
    """Tell whether both have the same model file; of a file with several graphs, the same task."""
    ours, theirs = artifact.facts, record.artifact
    return (ours.sha256, ours.task) == (theirs.sha256, theirs.task)


def _raw(found: FoundRecord) -> tuple[RawSamples | None, Origin, str]:
    name = found.record.timing_ms.samples
    if name is None:
        return None, "record", found.record.timing_ms.reasons.get("samples", ORIGINS["record"])
    try:
        return samples_of(found.file, found.record), "samples", ""
    except CheckpointError as error:
        beside = samples_folder(found.file) / name.rpartition("/")[2]
        return None, "changed" if beside.is_file() else "missing", str(error)


def _disagreements(
    record: BenchRecord,
    raw: RawSamples,
    timing: TimingRecord,
    energy: EnergyRecord,
    sustained: SustainedRecord | None,
) -> Iterator[str]:
    if raw.trace is None and record.energy.mj_per_image_net is not None:
        yield "energy: the samples hold no readings of a counter"
    yield from _differences("timing_ms", record.timing_ms, timing)
    yield from _differences("energy", record.energy, energy)
    yield from _differences("sustained", record.sustained, sustained)
    validity = record.validity
    medians = repeat_medians(raw)
    yield from _differences("validity.repeat_p50_ms", list(validity.repeat_p50_ms), list(medians))
    yield from _differences("validity.spread", validity.spread, spread(medians))
    yield from _differences("validity.canary_drift", validity.canary_drift, canary_drift(raw))


def _differences(where: str, recorded: Any, computed: Any) -> Iterator[str]:
    """Numbers, grades and lengths that differ; words (reasons, rules) may be put better by another version."""
    recorded, computed = _plain(recorded), _plain(computed)
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for name in recorded:
            if name not in ("reasons", "grade_rule"):
                yield from _differences(f"{where}.{name}", recorded[name], computed.get(name))
    elif isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed):
        for index, (theirs, ours) in enumerate(zip(recorded, computed, strict=True)):
            yield from _differences(f"{where}.{index}", theirs, ours)
    elif not _equal(recorded, computed):
        yield f"{where}: recorded {_said(recorded)}, the samples give {_said(computed)}"


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _equal(recorded: Any, computed: Any) -> bool:
    if isinstance(recorded, int | float) and isinstance(computed, int | float):
        return math.isclose(recorded, computed, rel_tol=_TOLERANCE, abs_tol=0.0)
    return bool(recorded == computed)


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    return f"{value:.10g}" if isinstance(value, float) else str(value)[:80]
