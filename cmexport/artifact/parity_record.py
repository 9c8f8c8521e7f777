"""A parity report as it stands in the manifest.

A PSNR of identical pictures is infinite and one of NaN doesn't exist; JSON knows neither. Both are null here, told
apart by `identical` and `non_finite`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from cmexport.artifact.schema import Record
from cmexport.parity.ladder import ParityReport
from cmexport.parity.metrics import PictureDifference
from cmexport.parity.sensitivity import TextSensitivity


class DifferenceRecord(Record):
    """`parity.metrics.PictureDifference`, with `identical` spelt out; dB with peak 2.0, shares from 0 to 1."""

    pictures: PositiveInt
    identical_pictures: NonNegativeInt
    identical: bool
    non_finite: NonNegativeInt
    mean_db: float | None
    min_db: float | None
    worst_picture: NonNegativeInt | None
    max_abs: float = Field(ge=0)
    off_by_1: float = Field(ge=0, le=1)
    off_by_2: float = Field(ge=0, le=1)
    off_by_4: float = Field(ge=0, le=1)

    @classmethod
    def from_difference(cls, found: PictureDifference) -> Self:
        """Copy the statistics."""
        return cls(
            pictures=found.pictures,
            identical_pictures=found.identical_pictures,
            identical=found.identical,
            non_finite=found.non_finite,
            mean_db=found.mean_db,
            min_db=found.min_db,
            worst_picture=found.worst_picture,
            max_abs=found.max_abs,
            off_by_1=found.off_by_1,
            off_by_2=found.off_by_2,
            off_by_4=found.off_by_4,
        )


class SensitivityRecord(Record):
    """`parity.sensitivity.TextSensitivity` with its verdict; null where pictures hold NaN or Inf."""

    pairs: PositiveInt
    ratio: float | None
    least: float | None
    most: float | None
    cosine: float | None
    low: float
    high: float
    passed: bool

    @classmethod
    def from_sensitivity(cls, found: TextSensitivity) -> Self:
        """Copy the figures."""
        return cls(**vars(found), passed=found.passed)

    @property
    def found(self) -> TextSensitivity:
        """The figures without the verdict."""
        return TextSensitivity(**self.model_dump(exclude={"passed"}))


class RungRecord(Record):
    """One rung against the reference; `own_gate_db` replaces `applied_gate_db` where it is not null.

    `part_seconds` are the median seconds of a run of each graph, where several run in turn.
    """

    name: str
    passed: bool
    seconds: float = Field(ge=0)
    difference: DifferenceRecord
    own_gate_db: float | None = None
    sensitivity: SensitivityRecord | None = None
    part_seconds: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class ExactRecord(Record):
    """Reference and last rung against the same sampler in float64."""

    pictures: PositiveInt
    reference: DifferenceRecord
    candidate: DifferenceRecord


class ParityRecord(Record):
    """`parity.ladder.ParityReport` without its pictures; picture i has seed `seed` + i and label i mod classes.

    `alone_db`: of each graph, where several run in turn, the mean PSNR of pictures that it draws with PyTorch's other
    graphs; null where they are identical or not finite.
    """

    reference: str
    gate_db: float
    applied_gate_db: float
    passed: bool
    failed_rung: str | None
    pictures_asked: PositiveInt
    pictures: PositiveInt
    seed: int
    output: Literal["float", "uint8"]
    reference_non_finite: NonNegativeInt
    reference_seconds: float = Field(ge=0)
    rungs: tuple[RungRecord, ...] = Field(min_length=1)
    exact: ExactRecord | None
    gate_origin: str = ""
    alone_db: dict[str, float | None] = Field(default_factory=dict)

    @property
    def time_shares(self) -> dict[str, float]:
        """Of what ships, the share (0 to 1) of a picture's time that each graph takes; empty where there is one."""
        seconds = self.rungs[-1].part_seconds
        total = sum(seconds.values())
        return {name: each / total for name, each in seconds.items()} if total else {}

    @classmethod
    def from_report(cls, report: ParityReport) -> Self:
        """Copy a report."""
        exact = report.exact
        return cls(
            reference=report.reference,
            gate_db=report.gate_db,
            applied_gate_db=report.applied_gate_db,
            passed=report.passed,
            failed_rung=report.failed_rung,
            pictures_asked=report.pictures_asked,
            pictures=report.pictures,
            seed=report.seed,
            output="uint8" if report.output == "uint8" else "float",
            reference_non_finite=report.reference_non_finite,
            reference_seconds=report.reference_seconds,
            rungs=tuple(
                RungRecord(
                    name=rung.name,
                    passed=rung.passed,
                    seconds=rung.seconds,
                    difference=DifferenceRecord.from_difference(rung.difference),
                    own_gate_db=rung.own_gate_db,
                    sensitivity=None
                    if rung.sensitivity is None
                    else SensitivityRecord.from_sensitivity(rung.sensitivity),
                    part_seconds=dict(rung.part_seconds),
                )
                for rung in report.rungs
            ),
            exact=None
            if exact is None
            else ExactRecord(
                pictures=exact.pictures,
                reference=DifferenceRecord.from_difference(exact.reference),
                candidate=DifferenceRecord.from_difference(exact.candidate),
            ),
            gate_origin=report.gate_origin,
            alone_db=dict(report.alone_db),
        )
