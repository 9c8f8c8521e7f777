"""This machine, really."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cmexport.bench.devices.base import DeviceOptions
from cmexport.bench.devices.local import LocalDevice
from cmexport.bench.devices.registry import device_named
from cmexport.bench.energy.window import energy_from_trace
from cmexport.bench.processes import ending, shell_code
from cmexport.bench.records import append_record, read_records, samples_folder, samples_of
from cmexport.bench.samples import timing_from_samples
from cmexport.errors import BackendError, UsageError
from cmexport.progress import Progress


def test_two_precisions_three_times(jobs, quick, tmp_path):
    """The record says whether the medians agreed; which it is depends on what else runs here."""
    out = tmp_path / "r.jsonl"
    options = replace(quick, repeats=3, energy="off", samples=samples_folder(out))
    for record in LocalDevice().run(jobs, options, Progress()):
        append_record(out, record)
    records = read_records(out)
    assert [r.artifact.precision for r in records] == ["fp32", "fp16"]
    for record in records:
        assert record.failure is None
        assert record.parity.passed
        assert len(record.validity.repeat_p50_ms) == 3
        assert ("unstable" in record.validity.flags) == (record.validity.spread > 0.05)
        assert record.energy.grade == "D"
        assert record.energy.mj_per_image_net is None
        assert record.energy.reasons["mj_per_image_net"] == "switched off with --energy off"
        assert record.timing_ms.load_cold > 0
        assert record.memory_mb.peak >= record.memory_mb.after > 0
        assert record.backend.threads == 1
        raw = samples_of(out, record)
        assert timing_from_samples(raw, record.timing_ms.samples) == record.timing_ms
        assert raw.trace is None or energy_from_trace(raw.trace) == record.energy


def test_no_counter_is_null_with_the_reason(jobs, quick, monkeypatch):
    monkeypatch.setattr("cmexport.bench.devices.local.open_energy", lambda wanted, provider: f"none for {provider}")
    (record,) = LocalDevice().run(jobs[:1], quick, Progress())
    assert record.energy.reasons["mj_per_image_gross"] == "none for cpu"


def test_a_provider_that_is_not_here_is_a_failed_record(jobs, quick):
    (record,) = LocalDevice().run(jobs[:1], replace(quick, provider="cuda", energy="off"), Progress())
    assert record.failure.stage == "load"
    assert "CUDAExecutionProvider is not in this ONNX Runtime" in record.failure.message
    assert record.timing_ms.n == 0
    assert record.timing_ms.p50 is None


def test_a_runner_that_dies_tells_its_last_words(jobs, quick, tmp_path: Path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho first >&2\necho 'no more memory' >&2\nexit 7\n")
    python.chmod(0o755)
    (record,) = LocalDevice(str(python)).run(jobs[:1], replace(quick, energy="off"), Progress())
    assert record.failure.message == "the runner ended with code 7: no more memory"


def test_describe():
    device = LocalDevice(sys.executable).describe()
    assert device.cores == os.cpu_count()
    with pytest.raises(BackendError, match="can't be run"):
        LocalDevice("/no/such/python").describe()


def test_endings():
    assert ending(-9, "") == "the runner was killed by signal 9 (out of memory?)"
    assert ending(1, "x") == "the runner ended with code 1: x"
    # What a shell made of SIGKILL; a plain failure; and 255, which ssh and adb return for their own failures.
    assert [shell_code(code) for code in (137, 1, 255, -9)] == [-9, 1, 255, -9]


def test_nothing_is_left_in_the_folder_for_temporary_files(jobs, quick, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    list(LocalDevice().run(jobs[:1], replace(quick, energy="off"), Progress()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spec", ["", "phone", "local://x", "browser://x", "ssh://", "ssh", "http://host"])
def test_other_devices_are_refused_with_the_known_ones(spec):
    with pytest.raises(UsageError, match=r"known are local, ssh://user@host"):
        device_named(spec, DeviceOptions())


def test_local_by_name():
    assert device_named("local").name == "local"
