"""A real sshd on loopback, with its own keys and port."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncssh
import pytest

from cmexport.bench.devices.base import BenchJob, DeviceOptions, MeasureOptions
from cmexport.bench.devices.registry import device_named
from cmexport.bench.devices.ssh import SshDevice, parse_address
from cmexport.errors import BackendError, UsageError
from cmexport.progress import Progress

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if Path(p).exists()), None)
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd here: apt-get install openssh-server")


@dataclass(frozen=True)
class Server:
    spec: str
    options: DeviceOptions
    remote_tmp: Path
    folder: Path

    def device(self, **changes: object) -> SshDevice:
        device = device_named(self.spec, replace(self.options, **changes))
        assert isinstance(device, SshDevice)
        return device

    @property
    def left_behind(self) -> list[str]:
        return sorted(p.name for p in self.remote_tmp.iterdir())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wrapper(path: Path, lines: str) -> Path:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # sshd's StrictModes looks at every folder above the keys; pytest's own are private already.
    folder = Path(tempfile.mkdtemp(prefix="cmexport-sshd-"))
    remote_tmp = folder / "tmp"
    remote_tmp.mkdir()
    for name in ("host", "user"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / name))
        key.write_public_key(str(folder / f"{name}.pub"))
        (folder / name).chmod(stat.S_IRUSR | stat.S_IWUSR)
    shutil.copy(folder / "user.pub", folder / "authorized")
    port = free_port()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
        f"SetEnv TMPDIR={remote_tmp}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    log = (folder / "log").open("wb")
    process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(folder / "config")], stderr=log)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    else:
        raise AssertionError((folder / "log").read_text())
    options = DeviceOptions(identity=folder / "user", known_hosts=folder / "known_hosts", python=sys.executable)
    yield Server(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", options, remote_tmp, folder)
    process.terminate()
    process.wait()
    log.close()
    shutil.rmtree(folder)


def collect(records: Iterator[object], into: list) -> None:
    for record in records:
        into.append(record)


def runners_alive(server: Server) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(server.remote_tmp).encode() in command and b"runner.py" in command:
                found.append(int(entry.name))
    return found


def wait_until(true, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


@needs_sshd
def test_two_artefacts_are_measured_and_nothing_is_left(
    server: Server, jobs: list[BenchJob], quick: MeasureOptions, tmp_path: Path
) -> None:
    options = replace(quick, samples=tmp_path / "r.samples")
    records = list(server.device().run(jobs, options, Progress()))
    assert [r.artifact.precision for r in records] == ["fp32", "fp16"]
    for record, gate in zip(records, (100.0, 60.0), strict=True):
        assert record.failure is None
        assert record.device.kind == "ssh"
        assert record.device.name == server.spec
        assert record.timing_ms.n >= 6
        assert record.parity.passed
        assert record.parity.gate_db == gate
        assert record.parity.reference.startswith("PyTorch float32")
        assert record.energy.mj_per_image_net is None
        assert record.provenance.compared_with != ()
    assert len(list((tmp_path / "r.samples").iterdir())) == 2
    assert server.left_behind == []
    assert runners_alive(server) == []


@needs_sshd
def test_describe_leaves_nothing(server: Server) -> None:
    device = server.device().describe()
    assert device.os.startswith("Linux")
    assert server.left_behind == []


@needs_sshd
def test_a_killed_connection_leaves_no_process_no_folder_and_keeps_what_came(
    server: Server, jobs: list[BenchJob], quick: MeasureOptions
) -> None:
    """The server's process for this session is killed in the middle of the rounds, as a cable would be pulled."""
    seen: list[str] = []

    def pull(_name: str, done: int, _total: int) -> None:
        if done == 3 and not seen:
            seen.append("pulled")
            threading.Timer(0.2, kill_session, [server]).start()

    options = replace(quick, min_seconds=30.0, rounds=30)
    records = list(server.device().run(jobs, options, Progress(pictures=pull)))
    assert seen == ["pulled"]
    assert [r.failure.stage for r in records] == ["connection", "connection"]
    for record in records:
        assert "disconnected" in record.validity.flags
        assert "too_short" in record.validity.flags
        assert record.timing_ms.n >= 3, "the rounds before the break are kept"
        assert record.timing_ms.p50 is not None
        assert record.parity.passed
        assert "connection" in record.memory_mb.reasons["peak"]
    assert wait_until(lambda: runners_alive(server) == [])
    assert wait_until(lambda: server.left_behind == []), server.left_behind


def kill_session(server: Server) -> None:
    """End sshd's children: the connections, not the listener."""
    listener = int((server.folder / "pid").read_text())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == listener:
                os.kill(int(entry.name), signal.SIGKILL)


@needs_sshd
def test_ctrl_c_keeps_the_rounds_and_removes_the_folder(
    server: Server, jobs: list[BenchJob], quick: MeasureOptions
) -> None:
    def stop(_name: str, done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    records = []
    iterator = server.device().run(jobs, replace(quick, rounds=4), Progress(pictures=stop))
    with pytest.raises(KeyboardInterrupt):
        collect(iterator, records)
    assert [r.validity.flags[0] for r in records] == ["interrupted", "interrupted"]
    assert all(r.timing_ms.n >= 4 for r in records)
    assert server.left_behind == []
    assert runners_alive(server) == []


@needs_sshd
def test_an_unknown_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    with pytest.raises(BackendError, match=r"host key is not known(.|\n)*--known-hosts"):
        server.device(known_hosts=tmp_path / "none").describe()


@needs_sshd
def test_a_key_that_is_not_authorized(server: Server, tmp_path: Path) -> None:
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    with pytest.raises(BackendError, match=r"login was refused(.|\n)*--identity"):
        server.device(identity=tmp_path / "other").describe()


@needs_sshd
def test_a_file_that_is_no_key(server: Server, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("not a key")
    with pytest.raises(BackendError, match="not a usable private key"):
        server.device(identity=tmp_path / "bad").describe()
    with pytest.raises(UsageError, match="no such file"):
        server.device(identity=tmp_path / "missing").describe()


@needs_sshd
def test_no_python_there(server: Server) -> None:
    with pytest.raises(BackendError, match=r"has no /no/such/python; install Python 3\.8 or newer"):
        server.device(python="/no/such/python").describe()


@needs_sshd
def test_no_onnxruntime_there(server: Server, jobs: list[BenchJob], quick: MeasureOptions, tmp_path: Path) -> None:
    bare = wrapper(tmp_path / "bare-python", f'exec {sys.executable} -S -E "$@"')
    with pytest.raises(BackendError, match=r"has no numpy and no onnxruntime\nthere: .*pip install numpy onnxruntime"):
        list(server.device(python=str(bare)).run(jobs, quick, Progress()))
    assert server.left_behind == []


@needs_sshd
def test_a_runner_that_dies_says_so(
    server: Server, jobs: list[BenchJob], quick: MeasureOptions, tmp_path: Path
) -> None:
    """The second artefact goes on when the first one's runner is killed, by the out-of-memory killer say."""
    lines = f'case "$*" in *runner.py*/0" "*|*/0\\ --remove*) kill -9 $$;; esac\nexec {sys.executable} "$@"'
    deadly = wrapper(tmp_path / "deadly-python", lines)
    first, second = server.device(python=str(deadly)).run(jobs, quick, Progress())
    assert first.failure.stage == "run"
    assert "KILL" in first.failure.message or "signal 9" in first.failure.message
    assert first.timing_ms.n == 0
    assert second.failure is None
    assert second.parity.passed


def test_nobody_listens() -> None:
    device = device_named(f"ssh://nobody@127.0.0.1:{free_port()}", DeviceOptions())
    with pytest.raises(BackendError, match="can't be reached"):
        device.describe()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pi@raspberry", "ssh://pi@raspberry"),
        ("10.0.0.7", "ssh://10.0.0.7"),
        ("me@host:2222", "ssh://me@host:2222"),
        ("me@[fe80::1]:22", "ssh://me@[fe80::1]:22"),
        ("host/", "ssh://host"),
    ],
)
def test_addresses(text: str, name: str) -> None:
    assert parse_address(text).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@host:x",
        "host:0",
        "host:99999",
        "host:-1",
        "host/path",
        "host?x",
        "-oProxyCommand=x",
        "a b",
        "host\n",
        "a\\b",
    ],
)
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_address(text)


def test_a_password_is_not_taken_nor_shown() -> None:
    with pytest.raises(UsageError, match="passwords are not taken") as caught:
        parse_address("me:secret@host")
    assert "secret" not in str(caught.value)
