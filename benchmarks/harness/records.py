"""What a benchmark run writes: `benchmarks/results/<machine>.json`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from cmexport.artifact.schema import Record

SCHEMA_VERSION = 1


class Spread(Record):
    """Median and quartiles of `count` measurements."""

    median: float
    lower: float
    upper: float
    count: int


class MachineRecord(Record):
    """Where the numbers were measured.

    `features` are the processor's instructions that decide speed, under the kernel's names. `threads` is the number of
    intra-op threads given to every engine.
    """

    processor: str
    model: str
    cores: int
    threads: int
    memory_bytes: int | None
    features: tuple[str, ...]
    system: str
    python: str
    versions: dict[str, str]


class FileRecord(Record):
    """A model file (with its weights beside it, if any): bytes, operators, stored numbers."""

    bytes: int
    nodes: int
    parameters: int


class EngineRecord(Record):
    """One engine on one case.

    Attributes:
        arithmetic: precision the products are computed in, as the engine reports it.
        skipped: why it did not run; everything below is then None.
        latency_ms: per run (a whole batch); over counted turns, each the median of its runs.
        ratio: latency over the baseline's of the same round.
        fastest_ms: the fastest of all runs, which other programs of a shared machine disturb least.
        fastest_ratio: that over the baseline's.
        turns_dropped: turns left out because the round's baseline was slow.
        load_ms: from files to ready to run, in fresh processes with the libraries already imported.
        peak_memory_bytes: growth of resident memory from before loading to its highest point after all runs.
        psnr_db: of the picture against PyTorch eager's, peak 2.0; None when identical.
        share_of_peak: FLOP/s reached over what a large square product reaches in the same arithmetic.
        share_at_shapes: the same over what products of this model's own convolution shapes reach.
    """

    name: str
    arithmetic: str
    skipped: str | None = None
    note: str = ""
    latency_ms: Spread | None = None
    ratio: Spread | None = None
    fastest_ms: float | None = None
    fastest_ratio: float | None = None
    turns_dropped: int = 0
    load_ms: Spread | None = None
    peak_memory_bytes: int | None = None
    file: FileRecord | None = None
    psnr_db: float | None = None
    share_of_peak: float | None = None
    share_at_shapes: float | None = None


class FlopRecord(Record):
    """Floating-point operations of one run, 2 per multiply-add."""

    convolution: int
    attention: int
    linear: int


class ProductRecord(Record):
    """GFLOP/s (GOP/s for int8) in one arithmetic: of an edge^3 product, and of the case's convolutions as products."""

    arithmetic: str
    edge: int
    large: float
    at_shapes: float


class CaseRecord(Record):
    """One model at one batch size."""

    model: str
    title: str
    batch: int
    parameters: int
    baseline: str
    flops: FlopRecord
    products: tuple[ProductRecord, ...]
    engines: tuple[EngineRecord, ...]


class BenchmarkRecord(Record):
    """A whole run."""

    schema_version: Literal[1]
    created: datetime
    cmexport_version: str
    quick: bool
    seconds: float
    machine: MachineRecord
    cases: tuple[CaseRecord, ...]
