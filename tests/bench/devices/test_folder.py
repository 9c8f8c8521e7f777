"""Jobs that are carried to a device by hand: written once, run by the real runner, read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.devices.folder import FolderDevice, open_device, read_result
from cmexport.errors import BackendError, CheckpointError, OutputError, UsageError
from cmexport.progress import Progress

META = '{"kind": "meta", "contract": 1, "runner": "apple", "runtime": "coreml"}\n'


@pytest.fixture
def device(tmp_path: Path) -> FolderDevice:
    return open_device(str(tmp_path / "job"), DeviceOptions())


def write(device: FolderDevice, job: BenchJob, options: MeasureOptions) -> None:
    with pytest.raises(BackendError, match="the job is there now"):
        list(device.run([job], options, Progress()))


def test_there_and_back(device: FolderDevice, jobs: list[BenchJob], quick: MeasureOptions, runner: Path) -> None:
    write(device, jobs[0], quick)
    assert not [path for path in device.folder.rglob("*") if path.is_symlink()]  # it is going to be copied
    with pytest.raises(BackendError, match=r"no result yet\nrun it there"):
        list(device.run(jobs[:1], quick, Progress()))
    result = device.folder / "result.jsonl"
    subprocess.run([sys.executable, str(runner), str(device.folder), "--result", str(result)], check=True)
    (record,) = device.run(jobs[:1], quick, Progress())
    assert record.failure is None
    assert record.parity.passed is True
    assert record.timing_ms.n >= quick.min_runs
    assert record.device.name == "folder://job"


def test_results_of_units_are_records_of_their_own(
    device: FolderDevice, jobs: list[BenchJob], quick: MeasureOptions
) -> None:
    write(device, jobs[0], quick)
    (device.folder / "results").mkdir()
    for unit in ("ane", "cpu"):
        (device.folder / "results" / f"{unit}.jsonl").write_text(META + '{"kind": "done"}\n')
    records = list(device.run(jobs[:1], quick, Progress()))
    assert [r.backend.requested for r in records] == ["ane", "cpu"]
    assert {r.device.kind for r in records} == {"apple"}


def test_another_job_is_refused(device: FolderDevice, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    write(device, jobs[0], quick)
    with pytest.raises(CheckpointError, match=r"not of .* with these options"):
        list(device.run(jobs[1:], quick, Progress()))
    (device.folder / "inputs" / "0.noise.bin").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"0\.noise\.bin: not of"):
        list(device.run(jobs[:1], quick, Progress()))
    (device.folder / "inputs" / "0.noise.bin").unlink()
    with pytest.raises(CheckpointError, match="can't be read"):
        list(device.run(jobs[:1], quick, Progress()))


def test_nothing_else_is_overwritten(device: FolderDevice, jobs: list[BenchJob], quick: MeasureOptions) -> None:
    device.folder.mkdir()
    (device.folder / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        list(device.run(jobs[:1], quick, Progress()))
    assert (device.folder / "letter.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="one artefact"):
        list(device.run(jobs, quick, Progress()))
    with pytest.raises(UsageError, match="name the folder"):
        open_device("", DeviceOptions())


def test_results_that_stop_short(tmp_path: Path) -> None:
    path = tmp_path / "result.jsonl"
    path.write_text(META + '{"kind": "first", "ms": 3.5}\n{"kind": "samp')
    outcome = read_result(path)
    assert outcome.first_ms == 3.5
    assert outcome.failure is not None
    assert "disconnected" in outcome.flags


@pytest.mark.parametrize("bad", ["hello\n", '{"kind": "first", "ms": -1}\n', "[" * 100_000 + "\n", "\x00\n"])
def test_damaged_results(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "result.jsonl"
    path.write_text(META + bad + META)
    with pytest.raises(CheckpointError, match=r"result\.jsonl, line 2"):
        read_result(path)
    with pytest.raises(CheckpointError, match="can't be read"):
        read_result(tmp_path / "nothing.jsonl")
