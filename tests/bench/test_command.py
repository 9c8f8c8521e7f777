"""The verb, as a user types it; the records are real, the device is this machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmexport.bench.quiet import Witnesses
from cmexport.bench.records import read_records, samples_of
from cmexport.cli.main import main


@pytest.fixture
def cmexport(monkeypatch):
    # pytest's workers pretend a terminal of 80 columns; users' pipes get 120.
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(a) for a in arguments])
        return code, out.getvalue(), err.getvalue()

    return run


QUICK = ("--runs", 5, "--seconds", 0, "--threads", 1, "--energy", "off")


def test_a_table_and_records_that_are_added(cmexport, fp32, fp16, tmp_path):
    out = tmp_path / "r.jsonl"
    code, shown, _ = cmexport("bench", fp32, fp16 / "model.onnx", "-o", out, *QUICK)
    assert code == 0
    assert "tiny-onnx-fp32" in shown
    assert "no energy: switched off with --energy off" in shown.replace("\n", " ")
    assert "a 99th percentile needs 200" in shown.replace("\n", " ")
    code, shown, _ = cmexport("bench", fp32, "-o", out, "--json", *QUICK)
    assert code == 0
    (told,) = json.loads(shown)["records"]
    records = read_records(out)
    assert len(records) == 3
    assert told == records[-1].model_dump(mode="json")
    assert all(samples_of(out, record).ms for record in records)


def test_one_that_cannot_run_beside_one_that_can(cmexport, fp32, tmp_path):
    code, shown, complaint = cmexport("bench", fp32, "-o", tmp_path / "r.jsonl", "--provider", "cuda", *QUICK)
    assert code == 5
    assert "failed (load): CUDAExecutionProvider" in shown.replace("\n", " ")
    assert "CUDAExecutionProvider is not in this ONNX Runtime" in complaint
    assert read_records(tmp_path / "r.jsonl")[0].failure.stage == "load"


def test_ctrl_c_keeps_what_was_measured_and_ends_with_130(cmexport, fp32, tmp_path, monkeypatch):
    from cmexport.bench import measure

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure._Session, "sustain", interrupted)
    code, shown, complaint = cmexport("bench", fp32, "-o", tmp_path / "r.jsonl", *QUICK)
    assert code == 130
    (record,) = read_records(tmp_path / "r.jsonl")
    assert "interrupted" in record.validity.flags
    assert record.timing_ms.n >= 5
    assert "what was measured by then is kept: 1 record\n" in complaint
    assert "error: interrupted\n" in complaint
    assert "nothing was left behind" not in complaint
    assert "tiny-onnx-fp32" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--device", "toaster"), 2, "known are local, ssh://user@host"),
        (("--energy", "wattmeter"), 2, "known are auto, off, nvml"),
        (("--runs", 0), 2, "--runs"),
        (("-o", "."), 2, "name a file of records"),
        (("--task", "inpaint"), 2, "this artefact holds generate"),
    ],
)
def test_wrong_usage(cmexport, fp32, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, complaint = cmexport("bench", fp32, "--seconds", 0, *arguments)
    assert (found, complaint.count("Traceback")) == (code, 0)
    assert message in complaint.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_no_artefact_and_the_same_twice(cmexport, fp32, tmp_path):
    code, _, complaint = cmexport("bench", tmp_path)
    assert (code, "not an artefact" in complaint) == (3, True)
    code, _, complaint = cmexport("bench", fp32, fp32, "-o", tmp_path / "r.jsonl")
    assert (code, "two artefacts have this name" in complaint) == (2, True)


def test_a_file_that_can_not_be_written_is_found_out_before_measuring(cmexport, fp32, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, complaint = cmexport("bench", fp32, "-o", tmp_path / "file" / "r.jsonl")
    assert code == 3
    assert f"{tmp_path / 'file'} can't be written to; choose another file with -o" in complaint


@pytest.fixture
def two_busy_processes():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 2)]
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no /proc/stat")
def test_beside_other_work_a_figure_is_flagged_or_refused(cmexport, fp32, tmp_path, two_busy_processes):
    out = tmp_path / "r.jsonl"
    quick = ("--runs", 5, "--seconds", 1, "--threads", 1, "--energy", "off")
    code, shown, _ = cmexport("bench", fp32, "-o", out, *quick)
    assert code == 0
    assert "busy" in shown
    (record,) = read_records(out)
    assert "busy" in record.validity.flags
    assert record.validity.others_during > 0.1
    code, _, complaint = cmexport("bench", fp32, "-o", tmp_path / "none.jsonl", "--require-quiet", *quick)
    assert code == 5
    assert "not quiet: other work has" in complaint
    assert "--require-quiet" in complaint
    assert not (tmp_path / "none.jsonl").exists()


def test_work_that_begins_later_is_refused_too(cmexport, fp32, tmp_path, monkeypatch):
    """Nothing is kept of it, and what can't be seen can't be vouched for."""
    from cmexport.bench import outcome

    out = tmp_path / "none.jsonl"
    monkeypatch.setattr("cmexport.bench.measure.BUSY_SHARE", 1.1)
    for others, said in ((0.6, "other work had 60% of the processor"), (None, "other work can't be seen")):
        monkeypatch.setattr(outcome, "witnesses", lambda blocks, others=others: Witnesses(others, None))
        code, _, complaint = cmexport("bench", fp32, "-o", out, "--require-quiet", *QUICK)
        assert code == 5
        assert said in complaint
        assert not out.exists()
