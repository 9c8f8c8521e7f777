"""Records survive JSON; the page says what they say."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from benchmarks.harness.machine import describe_machine, slug
from benchmarks.harness.records import BenchmarkRecord
from benchmarks.harness.table import machine_line, render, render_case


def spread(median):
    return {"median": median, "lower": 0.98 * median, "upper": 1.03 * median, "count": 12}


@pytest.fixture
def content():
    naive = {
        "name": "naive",
        "arithmetic": "fp32",
        "latency_ms": spread(16.5),
        "ratio": spread(1.0),
        "fastest_ms": 15.9,
        "fastest_ratio": 1.0,
        "load_ms": spread(141.0),
        "peak_memory_bytes": 78_000_000,
        "file": {"bytes": 33_300_000, "nodes": 818, "parameters": 7_995_011},
        "share_of_peak": 0.524,
        "share_at_shapes": 0.73,
    }
    ours = {**naive, "name": "ours", "ratio": spread(0.871), "psnr_db": 144.83, "note": "a remark"}
    absent = {"name": "rival", "arithmetic": "bf16", "skipped": "ModuleNotFoundError: No module named 'rival'"}
    case = {
        "model": "demo",
        "title": "demo model",
        "batch": 1,
        "parameters": 7_995_011,
        "baseline": "naive",
        "flops": {"convolution": 3_461_000_000, "attention": 180_000_000, "linear": 2_500_000},
        "products": [{"arithmetic": "fp32", "edge": 2048, "large": 425.0, "at_shapes": 300.0}],
        "engines": [naive, ours, absent],
    }
    machine = {
        "processor": "Intel(R) Xeon(R) Processor @ 2.10GHz",
        "model": "6-207-2",
        "cores": 2,
        "threads": 2,
        "memory_bytes": 25_000_000_000,
        "features": ["avx2", "avx512_vnni"],
        "system": "Linux",
        "python": "3.11.1",
        "versions": {"torch": "2.13.0"},
    }
    return {
        "schema_version": 1,
        "created": "2026-11-22T08:00:00Z",
        "cmexport_version": "0.1.0",
        "quick": False,
        "seconds": 540.0,
        "machine": machine,
        "cases": [case],
    }


def test_a_record_survives_json(content):
    record = BenchmarkRecord.model_validate(content)
    assert BenchmarkRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("wrong", [{"schema_version": 2}, {"unknown": 1}, {"seconds": float("nan")}])
def test_other_schemas_are_refused(content, wrong):
    with pytest.raises(ValidationError):
        BenchmarkRecord.model_validate({**content, **wrong})


def test_rows_have_as_many_cells_as_the_header(content):
    case = BenchmarkRecord.model_validate(content).cases[0]
    table = [line for line in render_case(case).splitlines() if line.startswith("|")]
    tables = [[len(line.split("|")) for line in table[:3]], [len(line.split("|")) for line in table[3:]]]
    assert all(len(set(widths)) == 1 for widths in tables)


def test_the_row_says_what_the_record_says(content):
    text = render_case(BenchmarkRecord.model_validate(content).cases[0])
    row = next(line for line in text.splitlines() if line.startswith("| ours "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *("ours", "16.5 [16.2, 17.0]", "0.871 [0.854, 0.897]", "15.9", "1.000", "141", "78", "33.3", "818", "8.00"),
        *("144.8", "52 %", "73 %"),
    ]
    assert "3.64 GFLOP a run" in text
    assert "| fp32 | 425 (2048^3) | 300 | 12.1 |" in text


def test_an_engine_that_did_not_run_gives_its_reason_instead_of_a_row(content):
    lines = render_case(BenchmarkRecord.model_validate(content).cases[0]).splitlines()
    assert not any(line.startswith("| rival") for line in lines)
    assert "- not run: rival: ModuleNotFoundError: No module named 'rival'" in lines
    assert "- ours: a remark" in lines


def test_the_page_names_the_machine_and_what_it_can_not_do(content):
    page = render([BenchmarkRecord.model_validate(content)])
    assert "## Intel(R) Xeon(R) Processor @ 2.10GHz (family-model-stepping 6-207-2), 2 threads" in page
    assert "avx512_vnni" in page
    assert "No bf16 arithmetic" in page
    content["machine"]["features"].append("amx_bf16")
    assert "bf16 runs on amx_bf16." in render([BenchmarkRecord.model_validate(content)])


def test_the_file_name_is_plain(content):
    machine = BenchmarkRecord.model_validate(content).machine
    assert slug(machine) == "intel-xeon-processor-6-207-2-2-threads"
    assert machine_line(machine).endswith("2 threads")


def test_the_machine_is_read_from_cpuinfo(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "cpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Some CPU\nstepping\t: 8\nflags\t\t: avx2 amx_bf16 x\n"
    )
    found = describe_machine(3, cpuinfo)
    assert (found.processor, found.model, found.threads) == ("Some CPU", "6-143-8", 3)
    assert found.features == ("avx2", "amx_bf16")
    assert found.versions["onnx"][0].isdigit()
