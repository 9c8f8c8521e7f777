"""`--device folder://DIR`: for runners that are started by hand, as the apps of bench_device/apple and android are.

The first time the job is written into DIR. Take it to the device, run it there, put what it wrote (`*.jsonl`) back into
DIR, and run the same command again: each result becomes a record.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.folder import job_folder, provider_of
from cmexport.bench.lines import MAX_LINE_BYTES, LineError, parse_line
from cmexport.bench.outcome import JobOutcome, device_record, record_of
from cmexport.bench.schema import BenchRecord, DeviceRecord, PowerRecord
from cmexport.errors import BackendError, CheckpointError, OutputError, UsageError
from cmexport.files import require_file
from cmexport.progress import Progress

_NEXT = (
    "run it there (bench_device/apple or android), put the result (*.jsonl) into this folder, run this command again"
)
_KINDS = ("apple", "android")
_NO_ENERGY = "energy is not read beside a runner that is started by hand"


@dataclass(frozen=True)
class FolderDevice:
    """A job folder that somebody carries to a device."""

    folder: Path

    @property
    def name(self) -> str:
        """The device's name in records."""
        return f"folder://{self.folder.name}"

    def describe(self) -> DeviceRecord:
        """Describe nothing yet: the device is known from its results."""
        why = "known from the results"
        return DeviceRecord.known(why, name=self.name, kind="folder", power=PowerRecord.known(why))

    def run(self, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress) -> Iterator[BenchRecord]:
        """Write the job, or read its results: `DIR/*.jsonl` and `DIR/results/*.jsonl`, a record for each.

        Raises:
            UsageError: more than one artefact.
            CheckpointError: the folder holds another job, or a result can't be read.
            OutputError: the job can't be written.
            BackendError: it was written, or has no result yet: a device is to run it first.
        """
        if len(jobs) != 1:
            raise UsageError(f"--device folder://{self.folder}: takes one artefact at a time")
        (job,) = jobs
        if not (self.folder / "job.json").exists():
            progress.step(f"{job.artifact.name}: write the job")
            self._write(job, options)
            raise BackendError(f"{self.folder}: the job is there now, for a device to run\n{_NEXT}")
        self._check_same(job, options)
        results = sorted([*self.folder.glob("*.jsonl"), *self.folder.glob("results/*.jsonl")])
        if not results:
            raise BackendError(f"{self.folder}: the job is there, but no result yet\n{_NEXT}")
        for path in results:
            progress.step(f"{job.artifact.name}: {path.name}")
            outcome = read_result(path)
            runner = outcome.meta.runner if outcome.meta else ""
            device = device_record(self.name, runner if runner in _KINDS else "folder", outcome.meta, outcome.why)
            # bench_device/apple/bench.sh names a result by the unit that it asked for.
            requested = provider_of(job, options) if path.stem.startswith("result") else path.stem
            yield record_of(device, job, options, outcome, _NO_ENERGY, requested=requested)

    def _write(self, job: BenchJob, options: MeasureOptions) -> None:
        beside = self.folder.with_name(self.folder.name + ".part")
        try:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise OutputError(f"{self.folder}: not empty, and not a job; choose another folder")
            shutil.rmtree(beside, ignore_errors=True)
            job_folder(job, options, "alone").write(beside, shutil.copyfile)
            if self.folder.exists():
                self.folder.rmdir()
            beside.rename(self.folder)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise OutputError(f"{self.folder}: the job can't be written: {error.strerror}") from error

    def _check_same(self, job: BenchJob, options: MeasureOptions) -> None:
        """Other inputs have other pictures; another model has another speed."""
        try:
            for name, content in job_folder(job, options, "alone").files.items():
                path = self.folder / name
                require_file(path, "a file of this job")
                same = path.read_bytes() == content if isinstance(content, bytes) else _same_file(path, content)
                # The runner's own script may have changed the unit in job.json.
                if not same and name != "job.json":
                    raise CheckpointError(
                        f"{path}: not of {job.artifact.name} with these options; choose another folder for it"
                    )
        except OSError as error:
            raise CheckpointError(f"{self.folder}: can't be read: {error.strerror}: {error.filename}") from error


def _same_file(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while piece := a.read(1 << 20):
            if piece != b.read(1 << 20):
                return False
    return True


def read_result(path: Path) -> JobOutcome:
    """Read the lines of a result file. One that stops short, or whose last line is cut off, is "disconnected".

    Raises:
        CheckpointError: it can't be read, or a line before the last isn't one of the contract.
    """
    outcome = JobOutcome()
    require_file(path, "a result")
    try:
        with path.open("rb") as file:
            number = 0
            while text := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                try:
                    line = parse_line(text)
                    if line is not None:
                        outcome.add(line)
                except LineError as error:
                    if not text.endswith(b"\n") and len(text) <= MAX_LINE_BYTES:
                        break  # the runner was stopped while it wrote
                    raise CheckpointError(f"{path}, line {number}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    if not outcome.done and outcome.failure is None:
        outcome.fail("run", f"{path.name} ends before the runner was done", "disconnected")
    return outcome


def open_device(rest: str, options: DeviceOptions) -> FolderDevice:
    """Open the folder `rest`; see `registry.device_named`.

    Raises:
        UsageError: no folder is named.
    """
    del options
    if not rest:
        raise UsageError("--device folder://DIR: name the folder")
    return FolderDevice(Path(rest))
