"""One whole run on a very small random network: files made, engines started, record and page written."""

from __future__ import annotations

import pytest

from benchmarks.harness import plan
from benchmarks.harness.records import BenchmarkRecord
from benchmarks.onnx_cpu import main


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    assert main(["--tiny", "--threads", "1", "--out", str(folder)]) == 0
    return folder


def test_the_record_holds_every_engine(out):
    (path,) = out.glob("*.json")
    record = BenchmarkRecord.model_validate_json(path.read_text())
    assert path.stem.endswith("1-threads")
    assert record.quick
    (case,) = record.cases
    assert [e.name for e in case.engines] == [plan.ENGINES[k].name for k in plan.TINY[0].engines]
    by_name = {e.name: e for e in case.engines}
    assert all(e.skipped is None and e.latency_ms.median > 0 and e.load_ms.median > 0 for e in case.engines)
    assert by_name[plan.NAIVE].ratio.median == by_name[plan.NAIVE].fastest_ratio == 1.0
    assert all(e.fastest_ms <= e.latency_ms.lower for e in case.engines)
    assert all(e.psnr_db is None or e.psnr_db > 100 for e in case.engines)
    naive, ours = by_name[plan.NAIVE].file, by_name[plan.ENGINES["fp32"].name].file
    assert ours.nodes < naive.nodes
    assert ours.parameters < naive.parameters
    assert {p.arithmetic for p in case.products} == {"fp32", "bf16", "int8"}


def test_the_page_is_written_beside_it(out):
    page = (out / "benchmarks.md").read_text()
    assert "tiny random network" in page
    assert "don't edit by hand" in page


def test_plans_name_engines_that_exist_and_a_baseline():
    for case in (*plan.FULL, *plan.QUICK, *plan.TINY):
        assert set(case.engines) <= set(plan.ENGINES)
        assert {"eager", "naive"} <= set(case.engines)
        assert case.batch == 1 or all(plan.ENGINES[k].batched for k in case.engines)
        assert plan.needed(case)[0] == "work"
        assert len(set(plan.needed(case))) == len(plan.needed(case))
