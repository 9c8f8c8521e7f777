"""The `adb` program, one device at a time, and its complaints as sentences.

The program and not the `adbutils` library: the library talks to the same server, which only the program can start, and
leaves unauthorized and missing devices to be told apart from its exceptions' texts; the program has one documented
wording for each (AOSP packages/modules/adb), and another one can be put in its place on the PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmexport.errors import BackendError, UsageError

QUICK_S = 30.0
# 0.3 MB/s, the slowest wireless adb seen in reports, for a model of 1.2 GB.
_PUSH_S = 3600.0
_STATES = ("device", "offline", "unauthorized", "authorizing", "connecting", "recovery", "sideload", "bootloader")

# What adb prints on stderr (AOSP adb/transport.cpp, adb_client.cpp, file_sync_client.cpp), and what to do about it.
_SENTENCES = (
    (
        r"device unauthorized|device still authorizing",
        "has not allowed this computer: unlock it, accept 'Allow USB debugging?', run again",
    ),
    (
        r"no permissions|insufficient permissions",
        "may not be opened by this user: install your system's udev rules for Android, plug it in again",
    ),
    (r"device offline", "is offline: unplug it and plug it in again, or `adb reconnect`"),
    (r"No space left on device", "has no space left in /data/local/tmp: free some, run again"),
    (r"Read-only file system|Permission denied", "does not let adb write to /data/local/tmp"),
    (
        r"device '.*' not found|device not found|no devices/emulators found|no devices found",
        "is not there: plug it in and switch on USB debugging, or `adb connect HOST`; `adb devices` lists what is",
    ),
)
_LOST = re.compile(
    r"device offline|device '.*' not found|no devices|connection reset|closed|\beof\b|protocol fault|broken pipe|"
    r"no response",
    re.IGNORECASE,
)


class AdbError(BackendError):
    """adb could not do what it was asked to; `lost` if the device isn't there any more."""

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


@dataclass(frozen=True)
class AttachedDevice:
    """One line of `adb devices -l`: `state` is "device" for one that can be used; `model` "" where it isn't told."""

    serial: str
    state: str
    model: str


def parse_devices(text: str) -> tuple[AttachedDevice, ...]:
    """Read the output of `adb devices -l`; lines that are none (the server's starting messages) are passed over."""
    found = []
    for line in text.splitlines():
        words = re.match(r"(\S+)\s+(no permissions|[a-z]+)\b(.*)", line.strip())
        if not words or line.startswith(("List of devices", "*", "adb")):
            continue
        if words[2] in (*_STATES, "no permissions"):
            model = re.search(r"\bmodel:(\S+)", words[3])
            found.append(AttachedDevice(words[1], words[2], model[1].replace("_", " ") if model else ""))
    return tuple(found)


def adb_program() -> str:
    """Path of adb: $ADB, else on the PATH, else of the SDK.

    Raises:
        BackendError: there is none.
    """
    for candidate in (os.environ.get("ADB"), shutil.which("adb"), _of_sdk()):
        if candidate and (path := shutil.which(candidate)):
            return path
    raise BackendError(
        "--device adb needs the program adb: install Android's platform-tools (Debian: apt install adb; macOS: brew "
        "install android-platform-tools), or name it in $ADB"
    )


def _of_sdk() -> str | None:
    sdk = os.environ.get("ANDROID_HOME") or os.environ.get("ANDROID_SDK_ROOT")
    return str(Path(sdk) / "platform-tools" / "adb") if sdk else None


def choose_serial(program: str, wanted: str) -> str:
    """Choose the serial of the device to use: the wanted one, or the only one attached.

    Raises:
        UsageError: several are attached and none was named.
        AdbError: the wanted one, or any, is not there or can't be used.
    """
    attached = parse_devices(_run(program, ["devices", "-l"], "adb", QUICK_S))
    if not wanted and len(attached) > 1:
        listed = ", ".join(f"adb://{d.serial}" + (f" ({d.model})" if d.model else "") for d in attached)
        raise UsageError(f"--device adb: several devices are attached; name one: {listed}")
    found = next((d for d in attached if not wanted or d.serial == wanted), None)
    if found is None:
        others = ", ".join(d.serial for d in attached) or "none"
        raise AdbError(f"{_named(wanted)} {_SENTENCES[-1][1]} (attached: {others})")
    if found.state != "device":
        raise AdbError(f"{_named(found.serial)} {_sentence(f'device {found.state}') or f'is in state {found.state}'}")
    return found.serial


def _named(serial: str) -> str:
    return f"adb://{serial}" if serial else "an Android device"


def _sentence(complaint: str) -> str | None:
    spoken = complaint.replace("device no permissions", "no permissions")
    return next((said for pattern, said in _SENTENCES if re.search(pattern, spoken)), None)


@dataclass(frozen=True)
class AdbShell:
    """Commands run on one Android device through `adb`."""

    program: str
    serial: str

    @property
    def name(self) -> str:
        """The device's name in records."""
        return f"adb://{self.serial}"

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line for this device."""
        return [self.program, "-s", self.serial, *arguments]

    def shell(self, command: str, timeout_s: float = QUICK_S) -> str:
        """Run a command on the device and return its standard output.

        Raises:
            AdbError: the device is gone, or the command failed there.
        """
        return _run(self.program, ["-s", self.serial, "shell", "-T", command], self.name, timeout_s)

    def ask(self, command: str) -> str:
        """Run a command and return its output, "" where it fails: for what a phone may not have.

        Raises:
            AdbError: the device is gone.
        """
        try:
            return self.shell(command)
        except AdbError as error:
            if error.lost:
                raise
            return ""

    def push(self, *local: Path, to: str) -> None:
        """Copy files into a folder of the device that is there.

        Raises:
            AdbError: it can't be copied: no space, no right, no device.
        """
        _run(self.program, ["-s", self.serial, "push", *map(str, local), to + "/"], self.name, _PUSH_S)

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from the device.

        Raises:
            AdbError: it can't be copied.
        """
        _run(self.program, ["-s", self.serial, "pull", remote, str(local)], self.name, _PUSH_S)

    def is_there(self) -> bool:
        """Tell whether the device answers."""
        try:
            done = subprocess.run(
                self.argv("get-state"), capture_output=True, text=True, errors="replace", timeout=QUICK_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0 and done.stdout.strip() == "device"


def _run(program: str, arguments: Sequence[str], name: str, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AdbError(
            f"{name} did not answer for {timeout_s:.0f} s: unplug it and plug it in again", lost=True
        ) from error
    except OSError as error:
        raise BackendError(f"{program}: can't be run: {error.strerror}") from error
    if done.returncode == 0:
        return done.stdout
    complaint = (done.stderr.strip() or done.stdout.strip() or f"code {done.returncode}").replace("\r", "")
    lost = _LOST.search(complaint) is not None
    if said := _sentence(complaint):
        raise AdbError(f"{name} {said}", lost=lost)
    raise AdbError(f"{name}: {complaint.splitlines()[-1][:300]}", lost=lost)
