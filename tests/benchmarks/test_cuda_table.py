"""The GPU's records as a section of the page of benchmarks."""

from __future__ import annotations

import json

from benchmarks.harness.cuda_table import cuda_section
from benchmarks.onnx_cpu import PAGE, RESULTS


def record(**fields):
    row = {"ms": 12.34, "ratio": [0.5, 0.4, 0.6], "joules": 1.5, "joules_gross": 2.5}
    made = {"gpu": "A GPU", "torch": "2.13.0", "pipeline": "sd15", "steps": 4, "pixels": 512, "operations": 7}
    rows = {"idle": {"watts": 99.6}, "pipeline": row, "graph": row | {"db_to_pipeline": 81.25, "ms": 6.17}}
    remarks = {
        "pipeline": "1.0 s to the first picture",
        "compiled": "refused: RuntimeError: no.",
        "graph": "2.0 s to the first picture",
    }
    return made | {"graph_made_s": 20.6, "rows": rows, "remarks": remarks} | fields


def test_a_case_is_a_table_and_says_what_did_not_run(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(record()) + "\n" + json.dumps(record(steps=1, note="Aside.")) + "\n")
    section = cuda_section(tmp_path)
    assert "### A GPU: sd15, 512 x 512, 4 steps" in section
    assert "512 x 512, 1 step\n" in section
    assert "| pipeline | 12.3 | 0.500 [0.400, 0.600] | 1.50 | 2.50 |  | 1.0 s |" in section
    assert "| **graph** | 6.2 | 0.500 [0.400, 0.600] | 1.50 | 2.50 | 81.2 | 2.0 s |" in section
    assert "- not run: compiled: RuntimeError: no.\n" in section
    assert "draws 100 W. Aside.\n" in section


def test_no_records_no_section(tmp_path):
    assert cuda_section(tmp_path / "none") == ""


def test_the_page_holds_the_stored_records():
    assert PAGE.read_text(encoding="utf-8").endswith(cuda_section(RESULTS / "cuda"))
