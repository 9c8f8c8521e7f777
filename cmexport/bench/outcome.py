"""What a runner has told so far, and the record that it makes together with what the host knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

import cmexport
from cmexport.bench.devices.base import BenchJob, MeasureOptions
from cmexport.bench.energy.trace import EnergyTrace
from cmexport.bench.energy.window import energy_from_trace, no_energy
from cmexport.bench.lines import (
    ErrorLine,
    FirstLine,
    IdleLine,
    Line,
    LineError,
    LoadLine,
    LookLine,
    MemoryLine,
    MetaLine,
    MinuteLine,
    OutputLine,
    RawLine,
    SamplesLine,
    ThermalLine,
)
from cmexport.bench.quiet import witnesses
from cmexport.bench.samples import (
    THROTTLED,
    UNSTABLE,
    MinuteSamples,
    RawSamples,
    SampleBlock,
    canary_drift,
    repeat_medians,
    spread,
    sustained_from_samples,
    timing_from_samples,
    write_samples,
)
from cmexport.bench.schema import (
    BackendRecord,
    BenchRecord,
    DeviceParityRecord,
    DeviceRecord,
    EnergyRecord,
    FailureRecord,
    MemoryRecord,
    PowerRecord,
    ProvenanceRecord,
    SustainedRecord,
    ThermalRecord,
    ValidityRecord,
)
from cmexport.doctor.machine import CPU_FEATURES
from cmexport.errors import CheckpointError
from cmexport.parity.metrics import compare
from cmexport.runner import Array

# What decides speed in a browser, as bench_device/web names it.
_BROWSER_FEATURES = ("wasm-simd", "wasm-threads", "shader-f16")
# Runs that last as long as asked for may end a moment early by the device's clock.
_CLOCK_SLACK_S = 0.05


@dataclass(eq=False)
class JobOutcome:
    """A runner's lines, sorted. `failure` and `flags` are what the host adds when things go wrong.

    Attributes:
        meta: runner, runtime and device.
        outputs: arrays by (run, name).
        raw: texts of watched files.
        looks: how busy others were before and after; turns on one device share them.
        idles: stretches in which nothing ran, in order.
        done: whether the runner got to its end.
    """

    meta: MetaLine | None = None
    cold_ms: float | None = None
    warm_ms: float | None = None
    first_ms: float | None = None
    outputs: dict[tuple[int, str], Array] = field(default_factory=dict)
    blocks: list[SamplesLine] = field(default_factory=list)
    minutes: list[MinuteLine] = field(default_factory=list)
    idles: list[IdleLine] = field(default_factory=list)
    looks: list[LookLine] = field(default_factory=list)
    raw: list[RawLine] = field(default_factory=list)
    thermal: list[ThermalLine] = field(default_factory=list)
    memory: MemoryLine | None = None
    failure: FailureRecord | None = None
    flags: list[str] = field(default_factory=list)
    done: bool = False

    def add(self, line: Line) -> None:
        """Take one line of a runner into the outcome.

        Raises:
            LineError: an output whose data does not fit its shape.
        """
        match line:
            case MetaLine():
                self.meta = line
            case LoadLine(cold=True):
                self.cold_ms = line.ms
            case LoadLine():
                self.warm_ms = line.ms
            case FirstLine():
                self.first_ms = line.ms
            case OutputLine():
                self.outputs[line.run, line.name] = line.array
            case SamplesLine():
                self.blocks.append(line)
            case MinuteLine():
                self.minutes.append(line)
            case LookLine():
                self.looks.append(line)
            case IdleLine():
                self.idles.append(line)
            case RawLine():
                self.raw.append(line)
            case ThermalLine():
                self.thermal.append(line)
            case MemoryLine():
                self.memory = line
            case ErrorLine():
                self.failure = FailureRecord(stage=line.stage, message=line.message)
            case _:
                self.done = self.done or line.kind == "done"

    def fail(self, stage: str, message: str, flag: str | None = None) -> None:
        """Note why it ended early; the first reason stays."""
        self.failure = self.failure or FailureRecord(stage=stage, message=message)
        if flag is not None:
            self.flag(flag)

    def flag(self, name: str) -> None:
        """Note what is wrong, once."""
        if name not in self.flags:
            self.flags.append(name)

    @property
    def why(self) -> str:
        """The reason for everything that is missing."""
        if self.failure is not None:
            return f"not measured: {self.failure.message}"[:500]
        return "not measured: the run was interrupted" if "interrupted" in self.flags else "the runner did not tell"

    @property
    def samples(self) -> RawSamples:
        """What was timed, as it goes into the side file."""
        why = {"": self.why, "trace": "no energy was read"}
        return RawSamples.known(
            why,
            load_cold=self.cold_ms,
            load_warm=self.warm_ms,
            first=self.first_ms,
            blocks=tuple(
                SampleBlock(
                    repeat=b.repeat,
                    round=b.round,
                    ms=tuple(b.ms),
                    canary_ms=tuple(b.canary_ms),
                    start_s=b.start_s,
                    end_s=b.end_s,
                    others=b.others,
                )
                for b in self.blocks
            ),
            minutes=tuple(
                MinuteSamples.known(
                    m.why.get("celsius", self.why),
                    minute=m.minute,
                    ms=tuple(m.ms),
                    canary_ms=tuple(m.canary_ms),
                    celsius=m.celsius,
                )
                for m in self.minutes
            ),
        )


def power_record(meta: MetaLine | None, why: str) -> PowerRecord:
    """Return the device's power supply as its runner told it."""
    if meta is None:
        return PowerRecord.known(why)
    reasons = {"": "this device does not tell", **_prefixed(meta, "power.")}
    return PowerRecord.known(reasons, **meta.device.power.model_dump())


def device_record(name: str, kind: str, meta: MetaLine | None, why: str) -> DeviceRecord:
    """Return the device as its runner told it."""
    power = power_record(meta, why)
    if meta is None:
        return DeviceRecord.known(why, name=name, kind=kind, power=power)
    found = meta.device.model_dump(exclude={"power", "features"})
    features = tuple(name for name in (*CPU_FEATURES, *_BROWSER_FEATURES) if name in meta.device.features)
    reasons = {
        "": "this device does not tell",
        "accelerator": "none took part",
        **meta.why,
        **_prefixed(meta, "device."),
    }
    return DeviceRecord.known(reasons, name=name, kind=kind, power=power, features=features, **found)


def _prefixed(meta: MetaLine, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): reason for name, reason in meta.why.items() if name.startswith(prefix)}


def parity_record(job: BenchJob, outputs: dict[tuple[int, str], Array], seed: int, why: str) -> DeviceParityRecord:
    """Compare the device's pictures with the expected ones."""
    if isinstance(job.expected, str):
        return DeviceParityRecord.known(job.expected, pictures=0, seed=seed)
    expected = job.expected
    known = {"reference": expected.reference, "seed": seed, "gate_db": expected.gate_db}
    found = [outputs.get((index, job.signature.output.name)) for index in range(len(job.runs))]
    if any(array is None for array in found):
        return DeviceParityRecord.known(f"pictures are missing: {why}"[:500], pictures=0, **known)
    try:
        pictures = np.concatenate([np.asarray(array) for array in found])
        difference = compare(expected.images, job.signature.output.as_pictures(pictures))
    except (CheckpointError, ValueError) as error:
        return DeviceParityRecord.known(f"the pictures can't be compared: {error}"[:500], pictures=0, **known)
    reason = "NaN or Inf among the pictures" if difference.non_finite else "the pictures are identical"
    return DeviceParityRecord.known(
        reason,
        **known,
        pictures=difference.pictures,
        mean_db=difference.mean_db,
        min_db=difference.min_db,
        max_abs=difference.max_abs,
        identical=difference.identical,
        non_finite=difference.non_finite,
        passed=difference.passes(expected.gate_db),
    )


def record_of(
    device: DeviceRecord,
    job: BenchJob,
    options: MeasureOptions,
    outcome: JobOutcome,
    energy: EnergyTrace | str,
    *,
    requested: str,
    compared_with: Iterable[str] = (),
) -> BenchRecord:
    """One record of what was measured, complete or not; writes the side file of raw samples.

    Args:
        device: the device.
        job: what was run.
        options: how it was to be measured.
        outcome: the runner's lines.
        energy: readings around the runs, or why there are none.
        requested: unit or execution provider that was asked for.
        compared_with: names of artefacts measured in the same interleaved rounds.

    Raises:
        OutputError: the side file can't be written.
    """
    samples = outcome.samples
    if not isinstance(energy, str):
        samples = samples.model_copy(
            update={"trace": energy, "reasons": {k: v for k, v in samples.reasons.items() if k != "trace"}}
        )
    side_file = None if options.samples is None else write_samples(options.samples, samples)
    sustained = sustained_from_samples(samples)
    parity = parity_record(job, outcome.outputs, options.seed, outcome.why)
    thermal = _thermal(outcome, sustained)
    validity = _validity(samples, options, outcome, parity, thermal)
    meta = outcome.meta
    reasons = {} if sustained else {"sustained": "not asked for (--sustained MINUTES)"}
    if options.sustained_minutes and not sustained:
        reasons = {"sustained": outcome.why}
    return BenchRecord(
        device=device,
        backend=_backend(job, outcome, requested),
        artifact=job.artifact,
        timing_ms=timing_from_samples(samples, side_file),
        memory_mb=_memory(outcome),
        energy=_energy(energy),
        thermal=thermal,
        sustained=sustained,
        parity=parity,
        validity=validity,
        provenance=ProvenanceRecord.known(
            outcome.why,
            run=options.run,
            created=datetime.now(UTC),
            cmexport_version=cmexport.__version__,
            runner=meta.runner if meta else "none started",
            runner_version=meta.runner_version if meta else None,
            compared_with=tuple(compared_with),
            command={
                "min_runs": options.min_runs,
                "min_seconds": options.min_seconds,
                "max_seconds": options.max_seconds,
                "warmup": options.warmup,
                "rounds": options.rounds,
                "repeats": options.repeats,
                "sustained_minutes": options.sustained_minutes,
            },
            tools=dict(meta.tools) if meta else {},
        ),
        failure=outcome.failure,
        reasons=reasons,
    )


def _energy(energy: EnergyTrace | str) -> EnergyRecord:
    return no_energy(energy) if isinstance(energy, str) else energy_from_trace(energy)


def _backend(job: BenchJob, outcome: JobOutcome, requested: str) -> BackendRecord:
    meta = outcome.meta
    if meta is None:
        return BackendRecord.known(outcome.why, name=job.artifact.target, requested=requested)
    return BackendRecord.known(
        {"": "the runtime does not tell", **meta.why},
        name=meta.runtime,
        version=meta.runtime_version,
        requested=requested,
        realized=meta.realized,
        threads=meta.threads,
        placement=meta.placement,
        fallback_ops=tuple(meta.fallback_ops),
        options={k: v for k, v in job.session.items() if k != "ep"},
    )


def _memory(outcome: JobOutcome) -> MemoryRecord:
    line = outcome.memory
    if line is None:
        return MemoryRecord.known(outcome.why)
    why = {"": "this device does not tell", **{k.removesuffix("_mb"): v for k, v in line.why.items()}}
    return MemoryRecord.known(why, before=line.before_mb, peak=line.peak_mb, after=line.after_mb, method=line.method)


def _thermal(outcome: JobOutcome, sustained: SustainedRecord | None) -> ThermalRecord:
    looks = outcome.thermal
    if not looks:
        return ThermalRecord.known(outcome.why)
    why = looks[0].why
    celsius = [look.celsius for look in looks if look.celsius is not None]
    celsius += [m.celsius for m in outcome.minutes if m.celsius is not None]
    told = [look.throttled for look in looks if look.throttled is not None]
    throttled = any(told) if told else None
    if throttled is not True and sustained is not None and sustained.canary_slowdown is not None:
        throttled = sustained.canary_slowdown > THROTTLED
    last = looks[-1] if len(looks) > 1 else None
    return ThermalRecord.known(
        {
            "celsius_start": why.get("celsius", outcome.why),
            "celsius_end": why.get("celsius", outcome.why),
            "celsius_max": why.get("celsius", outcome.why),
            "status_start": why.get("status", outcome.why),
            "status_end": why.get("status", outcome.why),
            "throttled": why.get("throttled", outcome.why),
        },
        celsius_start=looks[0].celsius,
        celsius_end=last.celsius if last else None,
        celsius_max=max(celsius) if celsius else None,
        status_start=looks[0].status,
        status_end=last.status if last else None,
        throttled=throttled,
    )


def _validity(
    samples: RawSamples,
    options: MeasureOptions,
    outcome: JobOutcome,
    parity: DeviceParityRecord,
    thermal: ThermalRecord,
) -> ValidityRecord:
    medians = repeat_medians(samples)
    found_spread, drift = spread(medians), canary_drift(samples)
    by_repeat = [[b for b in samples.blocks if b.repeat == r] for r in range(options.repeats)]
    runs_met = all(sum(len(b.ms) for b in blocks) >= options.min_runs for blocks in by_repeat)
    seconds_met = all(
        sum(b.end_s - b.start_s for b in blocks) >= options.min_seconds - _CLOCK_SLACK_S for blocks in by_repeat
    )
    flags = list(outcome.flags)
    flags += [] if runs_met else ["too_few_runs"]
    flags += [] if seconds_met else ["too_short"]
    heard = witnesses(samples.blocks)
    flags += ["busy"] if heard.busy else []
    flags += ["unstable"] if found_spread is not None and found_spread > UNSTABLE else []
    flags += ["clock_drift"] if drift is not None and abs(drift) > THROTTLED - 1.0 else []
    flags += ["parity_failed"] if parity.passed is False else []
    flags += ["throttled"] if thermal.throttled else []
    power = outcome.meta.device.power if outcome.meta else None
    flags += ["on_battery"] if power is not None and power.charger == "none" else []
    return ValidityRecord.known(
        {
            "spread": "one repeat only (--repeats N)" if options.repeats == 1 else outcome.why,
            "canary_drift": "the runner has no canary, or too few batches of runs",
            "canary_slowdown": "the runner has no canary, or sang too seldom",
            **_why_unseen(outcome),
        },
        min_runs_met=runs_met,
        min_seconds_met=seconds_met,
        repeats=options.repeats,
        repeat_p50_ms=medians,
        spread=found_spread,
        canary_drift=drift,
        others_before=_seen(outcome, "before"),
        others_during=heard.others,
        others_after=_seen(outcome, "after"),
        canary_slowdown=heard.canary_slowdown,
        flags=tuple(dict.fromkeys(flags)),
    )


def _seen(outcome: JobOutcome, when: str) -> float | None:
    return next((look.others for look in outcome.looks if look.when == when), None)


def _why_unseen(outcome: JobOutcome) -> dict[str, str]:
    """Why it is not known what other programs did."""
    unable = "this runner can't see other programs"
    during = next((b.why["others"] for b in outcome.blocks if "others" in b.why), unable)
    why = {"others_during": during if outcome.blocks else outcome.why}
    for when in ("before", "after"):
        said = next((look.why.get("others", unable) for look in outcome.looks if look.when == when), unable)
        why[f"others_{when}"] = said if outcome.failure is None else outcome.why
    return why


__all__ = ["JobOutcome", "LineError", "device_record", "parity_record", "power_record", "record_of"]
