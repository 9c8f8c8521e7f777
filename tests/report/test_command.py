"""The verb: what it writes, what it refuses, and its exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from cmexport.cli.main import main

REAL = Path(__file__).parents[1] / "bench" / "fixtures" / "h100.jsonl"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")  # or lines fold where the temporary folder's path ends


def test_a_page_and_markdown_of_real_records(tmp_path, capsys):
    assert main(["report", str(REAL), "--markdown", "r.md", "--title", "H100 & <co>", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["out"], said["records"], said["shown"], said["recomputed"]) == ("report.html", 2, 2, 2)
    assert said["bytes"] == (tmp_path / "report.html").stat().st_size
    assert {"pictures", "sustained", "diffusion"} <= set(said["not_measured"])
    page = (tmp_path / "report.html").read_text()
    assert "<title>H100 &amp; &lt;co&gt;</title>" in page
    assert "130.9" in page
    assert "| 130.9 | 124 to 137 | 175.4 |" in (tmp_path / "r.md").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "r.md"}


def test_the_same_input_gives_the_same_page(tmp_path):
    for name in ("a.html", "b.html"):
        assert main(["report", str(REAL), "-o", name]) == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_check_writes_nothing_and_finds_nothing_wrong(tmp_path, capsys):
    assert main(["report", str(REAL), "--check", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["recomputed"], said["disagreements"], said["missing"]) == (2, [], [])
    assert list(tmp_path.iterdir()) == []


def test_check_names_a_figure_that_was_changed(build, capsys):
    build.record(timing_ms={"p90": 1.0})
    build.record(kept=False, hour=1)
    assert main(["report", str(build.records), "--check"]) == 4
    said = capsys.readouterr()
    assert "timing_ms.p90: recorded 1" in said.out.replace("\n", " ")
    assert "1 of 2 records" in said.out
    assert "1 never had any" in said.out
    assert "1 disagreements" in said.err


def test_check_wants_the_side_files(build, capsys):
    record = build.record()
    (build.folder / record.timing_ms.samples).unlink()
    assert main(["report", str(build.records), "--check"]) == 3
    assert "missing" in capsys.readouterr().err
    assert main(["report", str(build.records)]) == 0
    assert "the file of samples is not here" in (build.folder / "report.html").read_text()


def test_check_refuses_samples_that_were_changed(build):
    record = build.record()
    side = build.folder / record.timing_ms.samples
    side.write_bytes(side.read_bytes() + b" ")
    assert main(["report", str(build.records), "--check"]) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["parity"].update(gate_db=60.0, applied_gate_db=60.0), "fp32 has 100 dB"),
        (lambda f: f["parity"].update(applied_gate_db=60.0), "applied gate"),
        (lambda f: f["parity"]["rungs"][0]["difference"].update(mean_db=80.0), "recorded as passed, but 80"),
        (lambda f: f["parity"].update(passed=False), "not that of its rungs"),
        (lambda f: f["files"][0].update(sha256="0" * 64), "changed since it was exported"),
    ],
)
def test_check_looks_at_artefacts(build, capsys, change, said):
    folder = build.artifact(change=change)
    assert main(["report", str(folder), "--check"]) == 4
    assert said in " ".join(capsys.readouterr().out.split())


def test_check_compares_a_devices_verdict_with_its_gate(build, capsys):
    build.record(parity={"mean_db": 20.0})
    assert main(["report", str(build.records), "--check"]) == 4
    assert "recorded as passed, but 20.0 dB" in capsys.readouterr().out.replace("\n", " ")


def test_what_is_refused(build, tmp_path, capsys):
    build.record()
    records = str(build.records)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "bad.jsonl").write_text("{")
    for arguments, code in (
        (["empty"], 2),
        ([], 2),
        (["gone.jsonl"], 3),
        (["bad.jsonl"], 3),
        ([records, "-o", "folder.html"], 2),
        ([records, "-o", "gone/report.html"], 3),
        ([records, "--markdown", "report.html"], 2),
        ([records, "--battery", "toaster"], 2),
    ):
        assert main(["report", *arguments]) == code, arguments
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert 1 <= len(said.strip().splitlines()) <= 8
        assert not (tmp_path / "report.html").exists()


def test_what_was_skipped_is_said_on_stderr_and_on_the_page(build, tmp_path, capsys):
    build.record()
    (tmp_path / "bad.jsonl").write_text("{")
    assert main(["report", str(tmp_path)]) == 0
    assert "bad.jsonl, line 1" in capsys.readouterr().err.replace("\n", " ")
    assert "bad.jsonl, line 1" in (tmp_path / "report.html").read_text()


def test_huge_and_tiny_figures(build, tmp_path):
    build.record("huge", ms=(1e300, 1e-300, 0.0, 1e308), minutes=(1e-200, 1e100))
    build.record("zero", ms=(0.0,))
    assert main(["report", str(build.records)]) == 0
    assert "nan" not in (tmp_path / "report.html").read_text().lower().replace("nano", "")


def test_input_is_left_as_it_was(build):
    build.record(watts=5.0)
    build.artifact()

    def state():
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in build.folder.rglob("*") if p.is_file()}

    before = state()
    assert main(["report", str(build.folder), "-o", str(build.folder / "report.html")]) == 0
    after = state()
    assert after.pop(build.folder / "report.html")
    assert after == before


def test_without_jinja_the_extra_is_named(build, monkeypatch, capsys):
    import sys

    build.record()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["report", str(build.records)]) == 5
    assert "cmexport[report]" in capsys.readouterr().err
