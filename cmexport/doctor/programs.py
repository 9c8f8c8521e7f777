"""Programs that no extra can bring: what benchmarks reach Android phones through, and a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cmexport.doctor.findings import Backend
from cmexport.targets.info import Finding

VERSION_TIMEOUT_S = 10


@dataclass(frozen=True)
class Program:
    """How to look for a program.

    Attributes:
        name: as users know it.
        purpose: what cmexport needs it for.
        commands: names it goes by on the PATH, the usual one first.
        version: arguments that print its version.
        remedy: how to get it.
        variable: environment variable that may name it instead.
    """

    name: str
    purpose: str
    commands: tuple[str, ...]
    version: tuple[str, ...]
    remedy: str
    variable: str | None = None


PROGRAMS: tuple[Program, ...] = (
    Program(
        "adb",
        "benchmarks on Android",
        ("adb",),
        ("version",),
        "apt install adb (macOS: brew install android-platform-tools)",
        "ADB",
    ),
    Program(
        "Chromium",
        "benchmarks in this machine's own browser; any other browser will do",
        ("chromium", "chromium-browser", "google-chrome"),
        ("--version",),
        "apt install chromium (or open the link in any browser)",
    ),
)


def examine_programs(
    programs: Sequence[Program] = PROGRAMS, environment: Mapping[str, str] | None = None
) -> tuple[Backend, ...]:
    """All of `programs`, in order; each that is here is asked for its version.

    Args:
        programs: what to look for.
        environment: with the PATH to look on; None: this process's.
    """
    return tuple(_examine(program, os.environ if environment is None else environment) for program in programs)


def _examine(program: Program, environment: Mapping[str, str]) -> Backend:
    named = environment.get(program.variable, "") if program.variable else ""
    candidates = filter(None, (named, *program.commands))
    path = next(filter(None, (shutil.which(name, path=environment.get("PATH", "")) for name in candidates)), None)
    version, finding = None, Finding("missing", "not on the PATH")
    if path is not None:
        version, finding = _ask(path, program.version)
    return Backend(
        name=program.name,
        purpose=program.purpose,
        state=finding.state,
        version=version,
        detail=finding.detail,
        remedy=None if finding.state == "works" else program.remedy,
        required=False,
    )


def _ask(path: str, arguments: Sequence[str]) -> tuple[str | None, Finding]:
    """Ask for the version: the first printed word with a digit ("Chromium 156.0.1 ...", "... version 1.0.41")."""
    try:
        done = subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, Finding("broken", f"{path} did not answer within {VERSION_TIMEOUT_S} s")
    except OSError as error:
        return None, Finding("broken", f"{path}: {error.strerror}")
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return None, Finding("broken", f"{path} ended with code {done.returncode}" + (f": {said[-1]}" if said else ""))
    words = done.stdout.split("\n", 1)[0].split()
    return next((word for word in words if word[:1].isdigit()), None), Finding("works", path)
