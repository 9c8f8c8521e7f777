"""What people read: one row a record, every missing figure with its reason, each thing said once."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from cmexport.bench.energy.window import no_energy
from cmexport.bench.records import read_records
from cmexport.bench.schema import BenchRecord, FailureRecord, TimingRecord
from cmexport.bench.table import bench_table, labels, remarks


@pytest.fixture
def real() -> BenchRecord:
    return read_records(Path(__file__).parent / "fixtures" / "h100.jsonl")[0]


def changed(record: BenchRecord, name: str, requested: str = "cpu", **fields: object) -> BenchRecord:
    artifact = record.artifact.model_copy(update={"name": name})
    backend = record.backend.model_copy(update={"requested": requested})
    return record.model_copy(update={"artifact": artifact, "backend": backend, **fields})


def shown(*records: BenchRecord) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(bench_table(records))
    return capture.get()


def test_a_record_is_a_row_with_the_figures_it_has(real: BenchRecord):
    (row,) = [line for line in shown(real).splitlines() if real.artifact.name in line]
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[1] == f"{real.timing_ms.p50:.2f}"
    assert cells[3] == f"{real.timing_ms.p99:.2f}"
    low, high = real.energy.ci95_mj_per_image
    assert cells[7] == f"{real.energy.mj_per_image_net:.4g} ± {(high - low) / 2:.2g} (A)"


def test_what_was_not_measured_is_a_dash_and_never_zero(real: BenchRecord):
    empty = changed(real, "broken", timing_ms=TimingRecord.known("it never ran", n=0))
    (row,) = [line for line in shown(empty).splitlines() if "broken" in line]
    assert row.split("│")[2].strip() == "-"
    assert "- / -" in row


def test_one_artefact_on_two_units_has_two_names(real: BenchRecord):
    records = [changed(real, "a", "wasm"), changed(real, "a", "webgpu"), changed(real, "b", "wasm")]
    assert labels(records) == ["a, wasm", "a, webgpu", "b"]
    assert "a, webgpu" in shown(*records)


def test_what_is_true_of_all_is_said_once_and_without_names(real: BenchRecord):
    few = TimingRecord.known("3 samples; a 99th percentile needs 200", n=3, p50=1.0)
    failure = FailureRecord(stage="connection", message="it was lost")
    flags = real.validity.model_copy(update={"flags": ("unstable",), "repeat_p50_ms": (1.0, 2.0)})
    calm = real.validity.model_copy(update={"flags": ()})
    one = changed(real, "one", timing_ms=few, validity=calm)
    other = changed(real, "other", timing_ms=few, failure=failure, validity=flags)
    said = remarks([one, other])
    assert said.count("no p99: 3 samples; a 99th percentile needs 200") == 1
    assert "other: failed (connection): it was lost" in said
    assert "other: unstable (medians 1.00, 2.00 ms)" in said
    assert not [line for line in said if line.startswith("one:")]
    assert "one: no p99: 3 samples; a 99th percentile needs 200" in remarks([one])


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("switched off with --energy off", "one: no energy: switched off with --energy off"),
        ("no energy counter here: no battery gauge", "one: no energy counter here: no battery gauge"),
    ],
)
def test_no_energy_is_said_in_one_breath(real: BenchRecord, reason: str, said: str):
    assert [line for line in remarks([changed(real, "one", energy=no_energy(reason))]) if "energy" in line] == [said]


def test_of_what_never_ran_only_the_failure_is_said(real: BenchRecord):
    failure = FailureRecord(stage="load", message="no such operator")
    dead = changed(real, "dead", timing_ms=TimingRecord.known("it never ran", n=0), failure=failure)
    assert remarks([dead]) == ["dead: failed (load): no such operator"]
