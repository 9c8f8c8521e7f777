"""This machine: the same runner as anywhere else, as a process of its own for each artefact."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.energy.base import EnergySource
from cmexport.bench.energy.local import open_energy
from cmexport.bench.engines import Engine, EngineGoneError
from cmexport.bench.folder import job_folder, provider_of
from cmexport.bench.lines import described
from cmexport.bench.measure import Place, measure
from cmexport.bench.meter import LocalMeter, Meter, NoMeter
from cmexport.bench.on_device import device_files
from cmexport.bench.outcome import JobOutcome, device_record
from cmexport.bench.processes import ProcessPipe, ending
from cmexport.bench.schema import BenchRecord, DeviceRecord
from cmexport.errors import BackendError
from cmexport.progress import Progress


class LocalDevice:
    """The machine that cmexport runs on; `python` is the interpreter that runs the runner."""

    name = "local"

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def describe(self) -> DeviceRecord:
        """Describe the machine as it is now.

        Raises:
            BackendError: the runner can't be run.
        """
        command = [self._python, str(device_files("python") / "runner.py"), "--probe", "/proc/cpuinfo"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=120, check=True, stdin=subprocess.DEVNULL)
            found = json.loads(done.stdout)["device"]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            raise BackendError(f"{self._python}: the runner can't be run: {error}") from error
        return device_record(self.name, "local", described(found), "")

    def run(self, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress) -> Iterator[BenchRecord]:
        """Measure artefacts on this machine; see `devices.base.Device`."""
        runner = device_files("python") / "runner.py"
        meter = self._meter(jobs, options)
        with tempfile.TemporaryDirectory(prefix="cmexport-bench-") as root:

            def start(job: BenchJob, outcome: JobOutcome, watch: tuple[str, ...]) -> Engine:
                folder = Path(tempfile.mkdtemp(dir=root))
                job_folder(job, options, "served", watch).write(folder)
                return Engine(ProcessPipe([self._python, str(runner), str(folder)], _ended), outcome)

            yield from measure(Place(self.name, "local"), jobs, start, options, meter, progress)

    @staticmethod
    def _meter(jobs: Sequence[BenchJob], options: MeasureOptions) -> Meter:
        source: EnergySource | str = open_energy(options.energy, provider_of(jobs[0], options))
        return NoMeter(source) if isinstance(source, str) else LocalMeter(source)


def _ended(code: int, complaint: str) -> EngineGoneError:
    return EngineGoneError(ending(code, complaint))


def open_device(rest: str, options: DeviceOptions) -> LocalDevice:
    """Open this machine; see `registry.device_named`."""
    del rest, options
    return LocalDevice()
