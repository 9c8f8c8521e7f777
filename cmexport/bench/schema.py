"""One record per (artefact, device, backend) run; a file of them is JSON Lines.

A figure that could not be had is null, and `reasons` of its section says why under the figure's name. Never 0, never an
estimate without its label. The schema is versioned like the manifest: readers refuse versions they don't know.

Every number of a table can be computed again from the raw samples (`cmexport.bench.samples`), which lie in a side file
named by their hash.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AwareDatetime,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from cmexport.artifact.schema import PlainDict, Record, Sha256

SCHEMA_VERSION = 1

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Flag = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


_LOOKED_AT = ("others_before", "others_during", "others_after", "canary_slowdown")


class Section(Record):
    """A record whose null figures each have a reason, and whose reasons each belong to a null figure.

    Fields in `no_reason_needed` may be null without one.
    """

    no_reason_needed: ClassVar[frozenset[str]] = frozenset()

    reasons: dict[str, Reason] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _null_and_why(self) -> Self:
        missing = {name for name in type(self).model_fields if getattr(self, name) is None} - self.no_reason_needed
        if silent := sorted(missing - set(self.reasons)):
            raise ValueError(f"{silent[0]} is null without a reason")
        if idle := sorted(set(self.reasons) - missing):
            raise ValueError(f"reasons name {idle[0]}, which is not a null figure")
        return self

    @classmethod
    def known(cls, why_not: str | dict[str, str], **figures: object) -> Self:
        """Return a section of those figures that are known.

        Args:
            why_not: the reason for every field that is missing or None; or one reason per field, "" for the rest.
            **figures: fields by name; None counts as missing.

        Raises:
            pydantic.ValidationError: a required field is missing, or a null has no reason.
        """
        found = {name: value for name, value in figures.items() if value is not None}
        reasons = {}
        for name, field in cls.model_fields.items():
            if name in found or name == "reasons" or field.default is not None:
                continue
            if name not in cls.no_reason_needed:
                reasons[name] = why_not if isinstance(why_not, str) else why_not.get(name, why_not.get("", ""))
        return cls.model_validate({**found, "reasons": reasons})


class PowerRecord(Section):
    """What powered the device and how it was set up, before the first window.

    Attributes:
        charger: "none", "ac", "usb", "wireless", or what the system calls it.
        battery_percent: state of charge, 0 to 100.
        low_power_mode: whether the system saved power on purpose.
        power_mode: the mode's own name: a Jetson's nvpmodel, a CPU governor.
        airplane_mode: whether radios were off.
        screen_on: whether the screen was lit.
    """

    charger: str | None = None
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    low_power_mode: bool | None = None
    power_mode: str | None = None
    airplane_mode: bool | None = None
    screen_on: bool | None = None


class DeviceRecord(Section):
    """What a record says of the device.

    Attributes:
        name: how it was addressed, without secrets: "local", "ssh://pi@10.0.0.7", "adb://R3C...", "browser".
        kind: "local", "ssh", "adb", "browser", "android" or "apple".
        model: the vendor's model code or name.
        processor: the chip's own name.
        cores: logical cores.
        memory_bytes: installed memory.
        os: system, version and architecture.
        accelerator: GPU or NPU that took part.
        features: instructions that decide speed, as Linux names them; of a browser wasm-simd, wasm-threads, shader-f16.
        power: power supply and modes.
        facts: what else the device said, under its own names.
    """

    name: str
    kind: str
    model: str | None = None
    processor: str | None = None
    cores: PositiveInt | None = None
    memory_bytes: PositiveInt | None = None
    os: str | None = None
    accelerator: str | None = None
    features: tuple[str, ...] = ()
    power: PowerRecord
    facts: PlainDict = Field(default_factory=dict)


class BackendRecord(Section):
    """What a record says of the runtime.

    Attributes:
        name: "onnxruntime", "onnxruntime-web", "coreml", "tensorrt_rtx", "torch-cuda".
        version: of the runtime.
        requested: unit or execution provider asked for: "cpu", "webgpu", "cpuAndNeuralEngine".
        realized: the one that the runtime says it used.
        threads: threads that one run may use.
        placement: operations per unit, where the runtime tells.
        fallback_ops: operations that did not run on the requested unit.
        options: session options.
    """

    name: str
    version: str | None = None
    requested: str
    realized: str | None = None
    threads: PositiveInt | None = None
    placement: dict[str, NonNegativeInt] | None = None
    fallback_ops: tuple[str, ...] = ()
    options: PlainDict = Field(default_factory=dict)


class ArtifactRecord(Section):
    """What a record says of the artefact that was run.

    Attributes:
        name: of the artefact's folder.
        sha256: of the model file; of several files, of the lines `sha256sum` prints for them, sorted by path.
        size_bytes: model and weight files together.
        target: "onnx", "coreml", ...
        precision: "fp32", "fp16", "int8", ...
        steps: network evaluations per picture.
        task: "generate", ...
        batch: pictures per run.
        checkpoint_sha256: of the checkpoint that it was exported from.
        sampler: "consistency", or "heun" for diffusion beside it.
    """

    name: str
    sha256: Sha256
    size_bytes: PositiveInt
    target: str
    precision: str
    steps: PositiveInt
    task: str
    batch: PositiveInt
    checkpoint_sha256: Sha256 | None = None
    sampler: str = "consistency"


class TimingRecord(Section):
    """Milliseconds on the device's own clock, of one run of the graph (`artifact.batch` pictures).

    Attributes:
        load_cold: opening the model the first time in a fresh process (or page).
        load_warm: opening it again in that process.
        first: the first run after opening; not among the samples, nor are the warm-up runs.
        n: samples, all repeats together.
        p50: median; percentiles interpolate linearly, as numpy does by default.
        p90: 90th percentile.
        p99: 99th percentile; null below 200 samples.
        iqr: distance of the quartiles.
        min: fastest.
        max: slowest.
        mean: arithmetic mean.
        samples: the side file with every sample, relative to the file of records.
    """

    load_cold: NonNegative | None = None
    load_warm: NonNegative | None = None
    first: NonNegative | None = None
    n: NonNegativeInt
    p50: NonNegative | None = None
    p90: NonNegative | None = None
    p99: NonNegative | None = None
    iqr: NonNegative | None = None
    min: NonNegative | None = None
    max: NonNegative | None = None
    mean: NonNegative | None = None
    samples: str | None = None


class MemoryRecord(Section):
    """Megabytes (1e6 bytes) of the process that ran the model.

    Attributes:
        before: with the runtime imported, no model opened.
        peak: the most it ever had.
        after: when the last run was done, the model still open.
        method: where the figures come from, e.g. "VmRSS, VmHWM of /proc/self/status".
    """

    before: NonNegative | None = None
    peak: NonNegative | None = None
    after: NonNegative | None = None
    method: str | None = None


Grade = Literal["A", "B", "C", "D"]


class EnergyRecord(Section):
    """Energy of the window of runs.

    Attributes:
        source: what was read, e.g. "NVML total energy counter".
        rails: the rails that were added up, without those that others contain.
        idle_before_w: median power in watts before the runs, device otherwise as during them.
        idle_after_w: the same after.
        active_w: mean power over the window.
        window_s: length of the window.
        updates: how often the counter moved inside it; at least 50 for a figure.
        interval_ms: median time between two movements of the counter.
        images: pictures made in the window.
        mj_per_image_gross: millijoules per picture, all of the rails' energy.
        mj_per_image_net: with the idle power (median of both sides) subtracted. This is the headline.
        ci95_mj_per_image: lower and upper end of the 95 % confidence interval of the net figure.
        grade: A external meter, or a rail or counter on the die; B estimates of a SoC; C battery gauge; D none or void.
        grade_rule: the rule that gave the grade, in words.
    """

    source: str | None = None
    rails: tuple[str, ...] = ()
    idle_before_w: float | None = None
    idle_after_w: float | None = None
    active_w: float | None = None
    window_s: NonNegative | None = None
    updates: NonNegativeInt | None = None
    interval_ms: NonNegative | None = None
    images: NonNegativeInt | None = None
    mj_per_image_gross: float | None = None
    mj_per_image_net: float | None = None
    ci95_mj_per_image: tuple[float, float] | None = None
    grade: Grade
    grade_rule: str

    @model_validator(mode="after")
    def _graded(self) -> Self:
        if self.grade == "D" and self.mj_per_image_net is not None:
            raise ValueError("grade D is for figures that don't exist")
        if self.grade != "D" and (self.mj_per_image_net is None or self.source is None):
            raise ValueError(f"grade {self.grade} without a figure and its source")
        return self


class ThermalRecord(Section):
    """Temperatures before and after, and whether the device was throttled.

    Attributes:
        celsius_start: warmest of the processor's sensors before the first run.
        celsius_end: the same after the last.
        celsius_max: the highest in between.
        status_start: the system's own word for it ("nominal", "light", ...).
        status_end: the same after the last run.
        throttled: whether clocks were lowered: the system said so, or the canary slowed down.
    """

    celsius_start: float | None = None
    celsius_end: float | None = None
    celsius_max: float | None = None
    status_start: str | None = None
    status_end: str | None = None
    throttled: bool | None = None


class MinuteRecord(Section):
    """One minute of a sustained run; `canary_ms` is the median time of the fixed matmul in it."""

    minute: NonNegativeInt
    n: PositiveInt
    p50_ms: NonNegative
    p90_ms: NonNegative
    canary_ms: Positive | None = None
    celsius: float | None = None


class SustainedRecord(Section):
    """Minutes of back-to-back runs.

    Attributes:
        minutes: one entry each, in order.
        first_p50_ms: of minute 0.
        steady_p50_ms: median of the last third of the minutes.
        slowdown: steady over first.
        canary_slowdown: the canary's, the same way: what of the slowdown is the clock's.
        time_to_throttle_s: start of the first minute whose canary was 10 % slower than in minute 0.
    """

    minutes: tuple[MinuteRecord, ...] = Field(min_length=1)
    first_p50_ms: NonNegative
    steady_p50_ms: NonNegative
    slowdown: Positive
    canary_slowdown: Positive | None = None
    time_to_throttle_s: NonNegative | None = None


class DeviceParityRecord(Section):
    """The device's own pictures against the reference, as `parity.metrics.PictureDifference`.

    Attributes:
        reference: what made the expected pictures: "PyTorch float32, checkpoint ..." or "ONNX Runtime on the host".
        pictures: pairs compared.
        seed: seed of picture 0; picture i has seed + i and label i mod classes.
        gate_db: what the mean must reach, in dB with peak 2.0.
        mean_db: mean PSNR.
        min_db: PSNR of the worst picture.
        max_abs: largest difference in units of [-1, 1].
        identical: whether every picture is exactly the reference's.
        non_finite: NaN and Inf numbers on either side.
        passed: whether the gate is met.
    """

    reference: str | None = None
    pictures: NonNegativeInt
    seed: int
    gate_db: float | None = None
    mean_db: float | None = None
    min_db: float | None = None
    max_abs: NonNegative | None = None
    identical: bool | None = None
    non_finite: NonNegativeInt | None = None
    passed: bool | None = None


class ValidityRecord(Section):
    """Whether the rules of measuring were kept.

    Attributes:
        min_runs_met: as many runs as asked for (30 by default), in every repeat.
        min_seconds_met: as many seconds as asked for (10 by default), in every repeat.
        repeats: measurements in a row.
        repeat_p50_ms: the median of each.
        spread: largest over smallest of those medians, minus 1.
        canary_drift: the canary's last median over its first, minus 1: change of the clock, not of the model.
        others_before: share of the processor's time, 0 to 1, that other programs had before the first run.
        others_during: the same while the runs were timed; above 0.1 the figure is flagged "busy".
        others_after: the same after the last run.
        canary_slowdown: the canary's mean over its best; above 1.3, "busy" where others can't be seen.
        flags: what is wrong: "unstable" (spread above 0.05), "interrupted", "disconnected", "too_few_runs",
            "too_short", "clock_drift", "parity_failed", "charging", "on_battery", "throttled", "emulated", "busy", ...
    """

    min_runs_met: bool
    min_seconds_met: bool
    repeats: PositiveInt
    repeat_p50_ms: tuple[NonNegative, ...] = ()
    spread: NonNegative | None = None
    canary_drift: float | None = None
    others_before: Share | None = None
    others_during: Share | None = None
    others_after: Share | None = None
    canary_slowdown: Positive | None = None
    flags: tuple[Flag, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, found: object) -> object:
        """Read records from before others' work was looked at: null, with that reason."""
        if not isinstance(found, dict) or not isinstance(reasons := found.get("reasons", {}), dict):
            return found
        new = {name for name in _LOOKED_AT if name not in found and name not in reasons}
        return {**found, "reasons": {**reasons, **dict.fromkeys(new, "measured before bench looked at other work")}}


class ProvenanceRecord(Section):
    """How to make the record again.

    Attributes:
        run: the same for all records of one command.
        created: when the record was finished.
        cmexport_version: of the host.
        runner: which runner, e.g. "python", "web".
        runner_version: its own version.
        compared_with: names of the artefacts that were measured in the same interleaved rounds.
        command: the measuring options.
        tools: versions of the libraries on the device.
    """

    run: str
    created: AwareDatetime
    cmexport_version: str
    runner: str
    runner_version: str | None = None
    compared_with: tuple[str, ...] = ()
    command: PlainDict = Field(default_factory=dict)
    tools: dict[str, str] = Field(default_factory=dict)


class FailureRecord(Record):
    """Why a run has no figures, or stopped early.

    `stage` is "start", "load", "first", "self-test", "run" or "connection".
    """

    stage: str
    message: str


class BenchRecord(Section):
    """One run of one artefact on one device.

    `sustained` is null when it was not asked for; `failure` is null, without a reason, when all went well.
    """

    no_reason_needed: ClassVar[frozenset[str]] = frozenset({"failure"})

    schema_version: Literal[1] = 1
    device: DeviceRecord
    backend: BackendRecord
    artifact: ArtifactRecord
    timing_ms: TimingRecord
    memory_mb: MemoryRecord
    energy: EnergyRecord
    thermal: ThermalRecord
    sustained: SustainedRecord | None = None
    parity: DeviceParityRecord
    validity: ValidityRecord
    provenance: ProvenanceRecord
    failure: FailureRecord | None = None


def first_fault(error: ValidationError, *, below: int = 0) -> str:
    """Name the first thing that is wrong with a record, and where, without the outermost `below` parts of the place."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part)[:60] for part in first["loc"][below : below + 8])
    return f"{where}: {first['msg'][:200]}"
