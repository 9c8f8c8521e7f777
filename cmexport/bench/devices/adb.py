"""A phone behind adb: runner, artefacts and inputs go into a fresh folder of /data/local/tmp, lines come back.

The runner is `bench_device/python/runner.py` in a Python of the phone (Termux has one), or a native one (`--native`):
ONNX Runtime's `onnxruntime_perf_test`, or any program that speaks the contract of bench_device/README.md in mode
"alone". What it leaves is removed; when the phone is lost, a Python runner of the shell's own user removes it.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from cmexport.bench.android import perf_test
from cmexport.bench.android.phone import PhoneState, phone_record, read_phone, read_phone_again, with_phone
from cmexport.bench.android.shell import AdbError, AdbShell, adb_program, choose_serial
from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions, check_runnable
from cmexport.bench.energy.android import GAUGE_FILES, gauge_facts, gauge_readings
from cmexport.bench.energy.base import SourceFacts, trace_of
from cmexport.bench.energy.trace import EnergyTrace
from cmexport.bench.engines import Engine, EngineGoneError
from cmexport.bench.folder import job_folder, provider_of
from cmexport.bench.lines import MetaLine
from cmexport.bench.measure import Place, measure
from cmexport.bench.meter import Meter, NoMeter
from cmexport.bench.on_device import device_files
from cmexport.bench.outcome import Outcome, device_record, record_of
from cmexport.bench.processes import ProcessPipe, ending, shell_code
from cmexport.bench.schema import BenchRecord, DeviceRecord
from cmexport.errors import BackendError, UsageError, first_line
from cmexport.progress import Progress

_TMP = "/data/local/tmp"
_ROOT = re.compile(rf"{_TMP}/cmexport-[0-9a-f]{{12}}")
_TERMUX = "/data/data/com.termux/files/usr/bin/python3"
# A Python that the shell's user may run, or Termux's, which only its debug builds (GitHub, not F-Droid) let adb enter.
_PYTHONS = (("python3",), ("run-as", "com.termux", _TERMUX))
_NO_GAUGE = (
    "the battery gauge needs 12 minutes an artefact and a phone that is unplugged (wireless adb): --energy battery"
)


class GaugeMeter:
    """The phone's battery gauge, watched by the first runner."""

    def __init__(self, before: PhoneState) -> None:
        self._void = before.battery.void() if before.battery else "the phone tells nothing of its battery"

    @property
    def facts(self) -> SourceFacts | None:
        """What is known of the battery gauge as a source of energy."""
        return gauge_facts()

    @property
    def watch(self) -> tuple[str, ...]:
        """The battery gauge's files, for the runner to watch."""
        return GAUGE_FILES

    def start(self) -> None:
        """Do nothing: the runner on the phone begins to read by itself."""

    def stop(self) -> None:
        """Do nothing: the runner on the phone ends by itself."""

    def trace(self, watched: Outcome) -> EnergyTrace | str:
        """Make a trace of the gauge readings that the runner sent."""
        readings, why_not = gauge_readings([(line.t_s, line.texts) for line in watched.raw])
        return trace_of(gauge_facts(), readings, self._void) if readings else self._void or why_not


@dataclass(frozen=True)
class AdbDevice:
    """A phone behind adb; `python` is an interpreter on it ("" looks for one), `native` a program to run instead."""

    shell: AdbShell
    python: str
    native: Path | None

    @property
    def name(self) -> str:
        """The device's name in records."""
        return self.shell.name

    def describe(self) -> DeviceRecord:
        """Describe the phone as it is now.

        Raises:
            AdbError: it can't be reached.
        """
        return phone_record(device_record(self.name, "adb", None, "the phone does not tell"), read_phone(self.shell))

    def run(self, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress) -> Iterator[BenchRecord]:
        """Measure; see `devices.base.Device`. Records say what powered the phone, and how warm it was."""
        progress.step(f"{self.name}: connect")
        before = read_phone(self.shell)
        if before.battery is not None and before.battery.powered_by:
            by = " and ".join(before.battery.powered_by)
            progress.step(f"{self.name} is charging ({by}): its clocks may differ from those on battery")
        with self._folder() as root:
            if self.native is None:
                records = self._by_python(root, jobs, options, before, progress)
            else:
                records = self._by_native(self.native, root, jobs, options, progress)
            for record in records:
                yield with_phone(record, before, read_phone_again(self.shell))

    @contextmanager
    def _folder(self) -> Iterator[str]:
        """Make a fresh folder on the phone, removed in the end if the phone is still there."""
        root = f"{_TMP}/cmexport-{secrets.token_hex(6)}"
        assert _ROOT.fullmatch(root)
        self.shell.shell(f"mkdir {root}")
        try:
            yield root
        finally:
            with suppress(AdbError):
                self.shell.shell(f"rm -rf {root}")

    def _by_python(
        self, root: str, jobs: Sequence[BenchJob], options: MeasureOptions, before: PhoneState, progress: Progress
    ) -> Iterator[BenchRecord]:
        meter = _meter(options, before)
        python = self._find_python()
        self.shell.push(device_files("python") / "runner.py", to=root)
        self._check_modules(python, root)

        def start(job: BenchJob, outcome: Outcome, watch: tuple[str, ...]) -> Engine:
            progress.step(f"{job.artifact.name}: copy")
            folder = f"{root}/{jobs.index(job)}"
            files = job_folder(job, options, "served", watch).files
            try:
                self._push_all(files, folder)
            except AdbError as error:
                raise EngineGoneError(first_line(error), "disconnected" if error.lost else None) from error
            command = shlex.join([*python, f"{root}/runner.py", folder, "--remove", root])
            return Engine(self._process(f"exec {command}"), outcome)

        yield from measure(Place(self.name, "adb"), jobs, start, options, meter, progress)

    def _by_native(
        self, program: Path, root: str, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress
    ) -> Iterator[BenchRecord]:
        """One artefact after the other: a native runner works alone, there are no turns."""
        check_runnable(jobs, "adb", "native runners run")
        timed = perf_test.is_perf_test(program)
        for job in jobs:
            outcome, interrupted = Outcome(), False
            folder = f"{root}/{jobs.index(job)}"
            progress.step(f"{job.artifact.name}: copy")
            try:
                self._push_all(job_folder(job, options, "alone").files, folder)
                self._push_program(program, folder)
                progress.step(f"{job.artifact.name}: run")
                if timed:
                    self._run_perf_test(program, folder, job, options, outcome)
                else:
                    self._run_contract(program, folder, outcome)
            except KeyboardInterrupt:
                interrupted = True
                outcome.flag("interrupted")
            except AdbError as error:
                outcome.fail(
                    "connection" if error.lost else "run", first_line(error), "disconnected" if error.lost else None
                )
            except BackendError as error:
                outcome.fail("run", first_line(error), "malformed_output")
            except EngineGoneError:
                pass  # the engine has noted it
            yield record_of(
                device_record(self.name, "adb", outcome.meta, outcome.why),
                replace(job, expected=perf_test.NO_PICTURES) if timed else job,
                options,
                outcome,
                "energy is read beside the Python runner only",
                requested=provider_of(job, options),
            )
            if interrupted:
                raise KeyboardInterrupt
            if "disconnected" in outcome.flags:
                return

    def _run_perf_test(
        self, program: Path, folder: str, job: BenchJob, options: MeasureOptions, outcome: Outcome
    ) -> None:
        self._push_all(perf_test.input_files(job), folder)
        provider = provider_of(job, options)
        why = "onnxruntime_perf_test does not tell"
        outcome.add(
            MetaLine(
                kind="meta",
                contract=1,
                runner="onnxruntime_perf_test",
                runtime="onnxruntime",
                threads=options.threads or None,
                why=dict.fromkeys(("runner_version", "runtime_version", "realized", "threads", "placement"), why),
            )
        )
        for repeat in range(options.repeats):
            said = self.shell.shell(
                perf_test.command(folder, program.name, job, options, provider, repeat), options.min_seconds * 2 + 600
            )
            csv = self.shell.shell(f"cat {folder}/times.{repeat}.csv")
            for line in perf_test.parse_times(said, csv).lines(repeat):
                outcome.add(line)

    def _run_contract(self, program: Path, folder: str, outcome: Outcome) -> None:
        command = f"cd {folder} && LD_LIBRARY_PATH=. exec ./{shlex.quote(program.name)} {folder}"
        engine = Engine(self._process(command), outcome)
        try:
            engine.ask(None, "done")
        finally:
            engine.close()

    def _process(self, command: str) -> ProcessPipe:
        """Start a process on the phone, by an `adb shell` of its own."""
        return ProcessPipe(self.shell.argv("shell", "-T", command), self._ended)

    def _ended(self, code: int, complaint: str) -> EngineGoneError:
        # A lost phone looks like an end: some versions of adb return 0 then, some 1, some 255. So it is asked.
        if self.shell.is_there():
            return EngineGoneError(ending(shell_code(code), complaint))
        return EngineGoneError(f"the connection to {self.name} was lost", "disconnected")

    def _push_program(self, program: Path, folder: str) -> None:
        """Push the runner, and the libraries that lie beside it."""
        if not program.is_file():
            raise UsageError(f"--native {program}: no such file")
        self.shell.push(program, *sorted(program.parent.glob("lib*.so*")), to=folder)
        self.shell.shell(f"chmod 755 {folder}/{shlex.quote(program.name)}")

    def _push_all(self, files: Mapping[str, bytes | Path], folder: str) -> None:
        """One push for each folder. adb skips links when it copies folders, so files are named one by one."""
        with tempfile.TemporaryDirectory(prefix="cmexport-adb-") as local:
            by_parent: dict[str, list[Path]] = {}
            for name, content in files.items():
                path = content if isinstance(content, Path) else Path(local, name)
                if isinstance(content, bytes):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                by_parent.setdefault(str((PurePosixPath(folder) / name).parent), []).append(path)
            self.shell.shell(f"mkdir -p {shlex.join(by_parent)}")
            for parent, paths in by_parent.items():
                self.shell.push(*paths, to=parent)

    def _find_python(self) -> tuple[str, ...]:
        """Find the command that starts Python on the phone."""
        wanted = ((self.python,),) if self.python else _PYTHONS
        for words in wanted:
            if self.shell.ask(f"{shlex.join(words)} -c 'print(6*7)'").strip() == "42":
                return words
        if self.python:
            raise BackendError(f"{self.name}: {self.python} is not a Python that adb's shell may run")
        raise BackendError(
            f"{self.name}: no Python that adb's shell may run: neither python3 nor Termux's (its debug build from "
            "GitHub, with `pkg install python-numpy python-onnxruntime`)\n"
            "name one with --python, or a program with --native"
        )

    def _check_modules(self, python: tuple[str, ...], root: str) -> None:
        said = self.shell.shell(shlex.join([*python, f"{root}/runner.py", "--probe", "/proc/version"]), 120.0)
        try:
            modules: dict[str, Any] = json.loads(said.strip().splitlines()[-1])["modules"]
            missing = [name for name in ("numpy", "onnxruntime") if not modules.get(name)]
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise BackendError(f"{self.name}: the runner can't be run there: {said.strip()[-200:]!r}") from error
        if missing:
            raise BackendError(
                f"{self.name}: its Python has no {' and no '.join(missing)}\n"
                f"in Termux: pkg install {' '.join(f'python-{name}' for name in missing)}"
            )


def _meter(options: MeasureOptions, before: PhoneState) -> Meter:
    if options.energy == "off":
        return NoMeter("switched off with --energy off")
    if options.energy == "auto":
        return NoMeter(_NO_GAUGE)
    if options.energy != "battery":
        raise UsageError(f"--energy {options.energy}: over adb there is battery")
    if before.battery is None or (void := before.battery.void()):
        raise BackendError(f"--energy battery: {void if before.battery else 'the phone tells nothing of its battery'}")
    return GaugeMeter(before)


def open_device(rest: str, options: DeviceOptions) -> AdbDevice:
    """Open the phone with serial `rest`, or the only one; see `registry.device_named`.

    Raises:
        UsageError: several are attached and none was named, or the serial is none.
        BackendError: there is no adb, or the phone can't be used.
    """
    if rest and not re.fullmatch(r"[\w.:\-\[\]()]+", rest):
        raise UsageError(f"--device adb://{rest}: a serial as `adb devices` prints it, e.g. adb://R58M123ABC")
    program = adb_program()
    return AdbDevice(AdbShell(program, choose_serial(program, rest)), options.python, options.native)
