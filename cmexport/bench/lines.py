"""The lines a runner writes, checked one by one: they come from another machine, and may be anything.

The contract is in bench_device/README.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints, TypeAdapter
from pydantic import ValidationError as _Invalid

from cmexport.artifact.schema import PlainDict
from cmexport.bench.schema import NonNegative, Positive, Reason, first_fault
from cmexport.errors import BackendError
from cmexport.runner import Array

CONTRACT: Final = 1
MAX_LINE_BYTES = 64_000_000
"""A picture of 1024 x 1024 x 3 floats is 17 MB in base64."""

_Text = Annotated[str, StringConstraints(max_length=2000)]
_Index = Annotated[int, Field(ge=0, lt=1_000_000)]


class LineError(BackendError):
    """A runner wrote something that is no line of the contract."""


class Line(BaseModel):
    """One line; `why` has the reasons for its null fields. Unknown fields are ignored, NaN and Inf refused."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)

    kind: str
    why: dict[str, Reason] = Field(default_factory=dict)


class PowerLine(BaseModel):
    """What powers the device."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)

    charger: _Text | None = None
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    low_power_mode: bool | None = None
    power_mode: _Text | None = None
    airplane_mode: bool | None = None
    screen_on: bool | None = None


class DeviceLine(BaseModel):
    """What the device says about itself."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)

    model: _Text | None = None
    processor: _Text | None = None
    cores: PositiveInt | None = None
    memory_bytes: PositiveInt | None = None
    os: _Text | None = None
    accelerator: _Text | None = None
    features: list[_Text] = Field(default_factory=list)
    power: PowerLine = Field(default_factory=PowerLine)
    facts: PlainDict = Field(default_factory=dict)


class MetaLine(Line):
    """The runner, its runtime and the device."""

    kind: Literal["meta"]
    contract: Literal[1]
    runner: _Text
    runner_version: _Text | None = None
    runtime: _Text
    runtime_version: _Text | None = None
    realized: _Text | None = None
    threads: PositiveInt | None = None
    placement: dict[str, NonNegativeInt] | None = None
    fallback_ops: list[_Text] = Field(default_factory=list)
    tools: dict[str, str] = Field(default_factory=dict)
    device: DeviceLine = Field(default_factory=DeviceLine)


class LoadLine(Line):
    """How long opening the model took."""

    kind: Literal["load"]
    ms: NonNegative
    cold: bool


class FirstLine(Line):
    """How long the first run took."""

    kind: Literal["first"]
    ms: NonNegative


class OutputLine(Line):
    """One output of one parity run."""

    kind: Literal["output"]
    run: _Index
    name: _Text
    dtype: Literal["float32", "float16", "float64", "uint8", "int32", "int64"]
    shape: list[Annotated[int, Field(ge=0, le=1_000_000)]] = Field(max_length=8)
    data: str

    @property
    def array(self) -> Array:
        """The array it carries; float16 is widened to float32.

        Raises:
            LineError: the data is no base64, or not as long as its shape.
        """
        try:
            raw = base64.b64decode(self.data, validate=True)
        except (binascii.Error, ValueError):
            raise LineError(f"output '{self.name}': its data is not base64") from None
        dtype = np.dtype(self.dtype).newbyteorder("<")
        if len(raw) != math.prod(self.shape) * dtype.itemsize:
            raise LineError(f"output '{self.name}': {len(raw)} bytes do not make {self.dtype} of shape {self.shape}")
        array = np.frombuffer(raw, dtype=dtype).reshape(self.shape)
        return array.astype(np.float32 if self.dtype == "float16" else self.dtype)


class ReadyLine(Line):
    """The runner waits for a command."""

    kind: Literal["ready"]


_Times = Annotated[list[NonNegative], Field(min_length=1, max_length=1_000_000)]
_Canaries = Annotated[list[Positive], Field(max_length=100_000)]


class SamplesLine(Line):
    """A batch of timed runs."""

    kind: Literal["samples"]
    repeat: _Index
    round: _Index
    ms: _Times
    canary_ms: _Canaries = Field(default_factory=list)
    start_s: float
    end_s: float
    others: Annotated[float, Field(ge=0, le=1)] | None = None


class LookLine(Line):
    """How busy others are while the runner does nothing."""

    kind: Literal["look"]
    when: Literal["before", "after"]
    others: Annotated[float, Field(ge=0, le=1)] | None = None
    canary_ms: _Canaries = Field(default_factory=list)


class MinuteLine(Line):
    """A minute of a sustained run."""

    kind: Literal["minute"]
    minute: _Index
    ms: _Times
    canary_ms: _Canaries = Field(default_factory=list)
    celsius: float | None = None


class IdleLine(Line):
    """A stretch in which nothing was run."""

    kind: Literal["idle"]
    start_s: float
    end_s: float


class RawLine(Line):
    """Texts of watched files at one moment."""

    kind: Literal["raw"]
    t_s: float
    texts: dict[str, _Text | None]


class MemoryLine(Line):
    """Resident memory of the runner, megabytes."""

    kind: Literal["memory"]
    before_mb: NonNegative | None = None
    peak_mb: NonNegative | None = None
    after_mb: NonNegative | None = None
    method: _Text | None = None


class ThermalLine(Line):
    """Temperatures and throttling at one moment."""

    kind: Literal["thermal"]
    t_s: float
    celsius: float | None = None
    status: _Text | None = None
    throttled: bool | None = None


class ErrorLine(Line):
    """The runner could not go on."""

    kind: Literal["error"]
    stage: _Text
    message: _Text


class DoneLine(Line):
    """The last line of a runner that has finished its job."""

    kind: Literal["done"]


_Any = Annotated[
    MetaLine
    | LoadLine
    | FirstLine
    | OutputLine
    | ReadyLine
    | SamplesLine
    | LookLine
    | MinuteLine
    | IdleLine
    | RawLine
    | MemoryLine
    | ThermalLine
    | ErrorLine
    | DoneLine,
    Field(discriminator="kind"),
]
_READER: TypeAdapter[Line] = TypeAdapter(_Any)
_KINDS = frozenset(
    (
        "meta",
        "load",
        "first",
        "output",
        "ready",
        "samples",
        "look",
        "minute",
        "idle",
        "raw",
        "memory",
        "thermal",
        "error",
        "done",
    )
)


def parse_line(text: bytes) -> Line | None:
    """One line as its type; None for an empty one or a kind that this version does not know.

    Raises:
        LineError: too long, not JSON, or not what its kind says.
    """
    if len(text) > MAX_LINE_BYTES:
        raise LineError(f"the runner wrote a line of {len(text) / 1e6:.0f} MB; {MAX_LINE_BYTES / 1e6:.0f} are allowed")
    if not text.strip():
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise LineError(f"the runner wrote something that is not JSON: {_excerpt(text)}") from None
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise LineError(f"the runner wrote a line without a kind: {_excerpt(text)}")
    if found["kind"] not in _KINDS:
        return None
    try:
        return _READER.validate_json(text)
    except _Invalid as error:
        raise LineError(f"the runner's line '{found['kind'][:20]}' is wrong: {first_fault(error, below=1)}") from None


def described(device: object) -> MetaLine:
    """Return a runner's description of its device as a line, for what asks about the device without running anything.

    Raises:
        pydantic.ValidationError: it is no description.
    """
    return MetaLine(
        kind="meta",
        contract=CONTRACT,
        runner="python",
        runtime="none",
        device=DeviceLine.model_validate(device),
        why={"device.accelerator": "not asked"},
    )


def _excerpt(text: bytes) -> str:
    shown = text[:80].decode(errors="replace").strip()
    return "".join(c if c.isprintable() else "?" for c in shown)
