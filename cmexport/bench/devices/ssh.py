"""A machine behind ssh: the runner, the artefacts and their inputs go into a fresh folder there, lines come back.

The runner ends when its standard input does, and removes the folder then: a connection that breaks leaves neither a
process nor files, and the lines that had come are kept. Host keys are checked; keys come from the agent, ~/.ssh or
--identity.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import shlex
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.energy.sysfs import PATTERNS, SysfsSource, find_sources
from cmexport.bench.engines import QUIT, Engine, EngineGoneError
from cmexport.bench.folder import JobFolder, job_folder, provider_of
from cmexport.bench.lines import described
from cmexport.bench.measure import Place, measure
from cmexport.bench.meter import Meter, NoMeter, WatchedMeter
from cmexport.bench.on_device import device_files
from cmexport.bench.outcome import Outcome, device_record
from cmexport.bench.processes import PATIENCE_S, ending, last_line, shell_code
from cmexport.bench.schema import BenchRecord, DeviceRecord
from cmexport.errors import BackendError, UsageError, first_line
from cmexport.files import require_file
from cmexport.progress import Progress
from cmexport.targets.registry import INFOS

_T = TypeVar("_T")
_CONNECT_S = 20.0
# Sent when nothing else is: a cable that was pulled is noticed within a minute.
_KEEPALIVE_S = 15
_FOLDER = re.compile(r"^/[\w./-]*/cmexport-bench-[\w-]+$")
_SOURCES = {"rapl": "RAPL energy counter", "soc": "Jetson INA3221", "battery": "battery gauge"}


@dataclass(frozen=True)
class SshAddress:
    """Where to log in; `user` and `port` None leave them to ~/.ssh/config and the usual defaults."""

    host: str
    user: str | None
    port: int | None

    @property
    def name(self) -> str:
        """The device's name in records."""
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{user}{host}{f':{self.port}' if self.port else ''}"


def parse_address(rest: str) -> SshAddress:
    """`[user@]host[:port]`; IPv6 addresses in brackets.

    Raises:
        UsageError: it is something else, or holds a password.
    """
    wrong = UsageError("--device ssh://...: write ssh://user@host or ssh://user@host:port, nothing after it")
    if "\\" in rest or any(c.isspace() or not c.isprintable() for c in rest):
        raise wrong
    try:
        parts = urlsplit(f"ssh://{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.password is not None:
        raise UsageError("--device ssh://...: passwords are not taken; use a key (ssh-copy-id), an agent or --identity")
    # A host that starts with "-" would be an option to programs that are given it.
    if not host or host.startswith("-") or parts.path not in ("", "/") or parts.query or parts.fragment or port == 0:
        raise wrong
    return SshAddress(host, parts.username or None, port)


class _Loop:
    """An event loop in a thread of its own, so that the rest of the program can wait as it likes."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="ssh")
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run to the end; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine on the thread's event loop, without waiting for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the thread and its event loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=PATIENCE_S)
        if not self._thread.is_alive():
            self._loop.close()


class SshPipe:
    """The lines of a runner on another machine, through ssh."""

    def __init__(self, loop: _Loop, process: Any, place: str) -> None:
        self.lines: queue.Queue[bytes | EngineGoneError] = queue.Queue()
        self._loop = loop
        self._process = process
        self._place = place
        self._complaint = b""
        loop.begin(self._read())
        loop.begin(self._listen())

    def write(self, text: bytes) -> None:
        """Send a command; whether the runner is still there shows in its lines."""
        self._loop.wait(self._send(text))

    def close(self) -> None:
        """End of input ends the runner; then a signal, then the channel."""
        with contextlib.suppress(Exception, CancelledError):
            self._loop.wait(self._end())

    async def _send(self, text: bytes) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.write(text)
            await self._process.stdin.drain()

    async def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.write(QUIT)
            self._process.stdin.write_eof()
        try:
            await asyncio.wait_for(self._process.wait_closed(), PATIENCE_S)
        except TimeoutError:
            self._process.kill()
            self._process.close()

    async def _read(self) -> None:
        said: EngineGoneError
        try:
            async for line in self._process.stdout:
                self.lines.put(line)
            await self._process.wait_closed()
            code, signal = self._process.exit_status, self._process.exit_signal
            if code is None and signal is None:
                said = EngineGoneError(f"the connection to {self._place} was lost", "disconnected")
            elif signal is not None:
                said = EngineGoneError(f"the runner was ended by SIG{signal[0]}")
            else:
                said = EngineGoneError(ending(shell_code(code), last_line(self._complaint)))
        except Exception as error:  # asyncssh has a class for every way to part
            said = EngineGoneError(f"the connection to {self._place} was lost: {first_line(error)}", "disconnected")
        self.lines.put(said)

    async def _listen(self) -> None:
        with contextlib.suppress(Exception):
            async for line in self._process.stderr:
                self._complaint = (self._complaint + line)[-4000:]


class SshDevice:
    """A machine behind ssh with Python, NumPy and a runtime."""

    def __init__(self, address: SshAddress, options: DeviceOptions) -> None:
        self._address = address
        self._options = options
        self._ssh = _asyncssh()
        self._python = options.python or "python3"

    @property
    def name(self) -> str:
        """The device's name in records."""
        return self._address.name

    def describe(self) -> DeviceRecord:
        """Describe the machine as it is now.

        Raises:
            BackendError: it can't be reached, or has no Python.
        """
        with self._connected() as (loop, connection):
            root = loop.wait(self._make_root(connection))
            try:
                found = loop.wait(self._probe(connection, root))
            finally:
                loop.wait(_remove(connection, root))
        return device_record(self.name, "ssh", described(found["device"]), "")

    def run(self, jobs: Sequence[BenchJob], options: MeasureOptions, progress: Progress) -> Iterator[BenchRecord]:
        """Measure artefacts behind ssh; see `devices.base.Device`."""
        progress.step(f"{self.name}: connect")
        with self._connected() as (loop, connection):
            root = loop.wait(self._make_root(connection))
            try:
                found = loop.wait(self._probe(connection, root))
                self._check_modules(found, jobs)
                meter = _meter(found, options, provider_of(jobs[0], options))

                def start(job: BenchJob, outcome: Outcome, watch: tuple[str, ...]) -> Engine:
                    progress.step(f"{job.artifact.name}: copy")
                    folder = f"{root}/{jobs.index(job)}"
                    try:
                        loop.wait(_send_folder(connection, folder, job_folder(job, options, "served", watch)))
                        process = loop.wait(self._start(connection, root, folder))
                    except (OSError, self._ssh.Error) as error:
                        gone = connection.is_closed()
                        raise EngineGoneError(
                            f"{self.name}: copying failed: {first_line(error)}", "disconnected" if gone else None
                        ) from error
                    return Engine(SshPipe(loop, process, self.name), outcome)

                yield from measure(Place(self.name, "ssh"), jobs, start, options, meter, progress)
            finally:
                loop.wait(_remove(connection, root))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[_Loop, Any]]:
        loop = _Loop()
        connection = None
        try:
            connection = loop.wait(self._connect())
            yield loop, connection
        finally:
            if connection is not None:
                connection_now = connection
                with contextlib.suppress(Exception, CancelledError):
                    loop.wait(_hang_up(connection_now))
            loop.close()

    async def _connect(self) -> Any:
        ssh, address, options = self._ssh, self._address, self._options
        wanted: dict[str, Any] = {"keepalive_interval": _KEEPALIVE_S, "login_timeout": _CONNECT_S}
        for file in (options.identity, options.known_hosts):
            if file is not None:
                require_file(file, "a file of keys")
        if options.identity is not None:
            wanted |= {"client_keys": [str(options.identity)], "agent_path": None}
        if options.known_hosts is not None:
            wanted["known_hosts"] = str(options.known_hosts)
        if address.user is not None:
            wanted["username"] = address.user
        if address.port is not None:
            wanted["port"] = address.port
        name = address.name
        try:
            return await ssh.connect(address.host, connect_timeout=_CONNECT_S, password=None, **wanted)
        except ssh.HostKeyNotVerifiable as error:
            raise BackendError(
                f"{name}: its host key is not known: {first_line(error)}\n"
                "log in once with ssh to check and keep it, or name a file of keys with --known-hosts"
            ) from error
        except ssh.PermissionDenied as error:
            raise BackendError(
                f"{name}: the login was refused\nload a key into the agent (ssh-add), or name one with --identity"
            ) from error
        except (ssh.KeyImportError, ssh.KeyEncryptionError) as error:
            raise BackendError(f"{options.identity}: not a usable private key: {first_line(error)}") from error
        except FileNotFoundError as error:
            raise UsageError(f"{error.filename}: no such file") from error
        except (OSError, TimeoutError) as error:
            raise BackendError(f"{name}: can't be reached: {first_line(error)}") from error
        except ssh.Error as error:
            raise BackendError(f"{name}: no ssh connection: {first_line(error)}") from error

    async def _make_root(self, connection: Any) -> str:
        """Make a fresh folder that only this user can look into."""
        code = "import tempfile; print(tempfile.mkdtemp(prefix='cmexport-bench-'))"
        done = await connection.run(f"{shlex.quote(self._python)} -c {shlex.quote(code)}", check=False, timeout=60)
        if done.exit_status in (126, 127):
            raise BackendError(
                f"{self.name}: has no {self._python}; install Python 3.8 or newer there, or name one with --python"
            )
        lines = str(done.stdout).strip().splitlines()
        root = lines[-1].strip() if lines else ""
        if done.exit_status != 0 or not _FOLDER.match(root) or ".." in root:
            complaint = str(done.stderr).strip().splitlines()
            raise BackendError(f"{self.name}: no folder could be made there: {complaint[-1] if complaint else root!r}")
        return root

    async def _probe(self, connection: Any, root: str) -> dict[str, Any]:
        runner = (device_files("python") / "runner.py").read_bytes()
        await _send_folder(connection, root, JobFolder({"runner.py": runner}))
        # ONNX Runtime 1.31 leaves a file in the folder for temporary files: it is ours, and goes with it.
        command = ["env", f"TMPDIR={root}", self._python, f"{root}/runner.py", "--probe", *PATTERNS]
        done = await connection.run(shlex.join(command), check=False, timeout=120, stdin=self._ssh.DEVNULL)
        try:
            found = json.loads(str(done.stdout).strip().splitlines()[-1])
            described(found["device"])
            if not isinstance(found["files"], dict) or not isinstance(found["modules"], dict):
                raise ValueError("not a probe's answer")
        except (ValueError, IndexError, KeyError, TypeError, ValidationError) as error:
            complaint = str(done.stderr).strip().splitlines()
            said = complaint[-1] if complaint else "no answer"
            raise BackendError(
                f"{self.name}: the runner can't be run there: {said}\nit needs Python 3.8 or newer (--python PATH)"
            ) from error
        return dict(found)

    def _check_modules(self, found: dict[str, Any], jobs: Sequence[BenchJob]) -> None:
        runtimes = {INFOS[job.artifact.target].runtime for job in jobs if job.artifact.target in INFOS}
        needed = {"numpy"} | (runtimes - {""})
        if missing := sorted(name for name in needed if not found["modules"].get(name)):
            raise BackendError(
                f"{self.name}: its {self._python} has no {' and no '.join(missing)}\n"
                f"there: {self._python} -m pip install {' '.join(missing)} (or another interpreter: --python PATH)"
            )

    async def _start(self, connection: Any, root: str, folder: str) -> Any:
        runner = [self._python, f"{root}/runner.py", folder, "--remove", root]
        command = shlex.join(["env", f"TMPDIR={root}", *runner])
        return await connection.create_process(f"exec {command}", encoding=None)


def open_device(rest: str, options: DeviceOptions) -> SshDevice:
    """`user@host[:port]`; see `registry.device_named`."""
    return SshDevice(parse_address(rest), options)


async def _send_folder(connection: Any, folder: str, job: JobFolder) -> None:
    async with connection.start_sftp_client() as sftp:
        made: set[PurePosixPath] = set()
        for name, content in job.files.items():
            path = PurePosixPath(folder) / name
            if path.parent not in made:
                await sftp.makedirs(str(path.parent), exist_ok=True)
                made.add(path.parent)
            if isinstance(content, Path):
                await sftp.put(str(content), str(path))
                continue
            async with sftp.open(str(path), "wb") as file:
                await file.write(content)


async def _remove(connection: Any, root: str) -> None:
    """Remove the folder, if there is still a connection; without one the runner has done so."""
    with contextlib.suppress(Exception):
        await connection.run(shlex.join(["rm", "-rf", "--", root]), check=False, timeout=PATIENCE_S)


async def _hang_up(connection: Any) -> None:
    connection.close()
    await asyncio.wait_for(connection.wait_closed(), PATIENCE_S)


def _meter(found: dict[str, Any], options: MeasureOptions, provider: str) -> Meter:
    if options.energy == "off":
        return NoMeter("switched off with --energy off")
    if provider.lower() in ("cuda", "tensorrt"):
        return NoMeter("a GPU's counter is not read over ssh: run cmexport bench on that machine itself")
    texts = {str(path): text if isinstance(text, str) else None for path, text in found["files"].items()}
    sources, refused = find_sources(texts)
    wanted: list[SysfsSource] = [
        s for s in sources if options.energy == "auto" or s.facts.name == _SOURCES.get(options.energy)
    ]
    if wanted:
        return WatchedMeter(wanted[0])
    if options.energy != "auto":
        known = ", ".join(_SOURCES)
        raise BackendError(f"--energy {options.energy}: not on that machine (over ssh: {known}): {refused}")
    return NoMeter(f"no energy counter there: {refused}")


def _asyncssh() -> Any:
    try:
        return import_module("asyncssh")
    except ImportError:
        raise BackendError("--device ssh://... needs asyncssh: pip install 'cmexport[bench]'") from None
