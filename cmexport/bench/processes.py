"""A runner in a process of this machine: itself the runner, or the program that carries it to another device."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence

from cmexport.bench.engines import QUIT, EngineGoneError

PATIENCE_S = 10.0
"""How long a runner may take to end."""


class ProcessPipe:
    """Lines of a process as they come, and how it ended.

    Args:
        command: the process.
        explain: from its exit code (minus the signal that killed it) and the last line of its standard error to the
            reason why no more lines will come.
    """

    def __init__(self, command: Sequence[str], explain: Callable[[int, str], EngineGoneError]) -> None:
        self.lines: queue.Queue[bytes | EngineGoneError] = queue.Queue()
        self._explain = explain
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        # A session of its own: Ctrl-C in the terminal is for us; the runner ends when its standard input does.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def write(self, text: bytes) -> None:
        """Send a command. A process that has ended is no error here: its last lines, still in the queue, say more."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(text)
            self._process.stdin.flush()

    def close(self) -> None:
        """End of input ends the runner; then a kill, if it does not listen."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(QUIT)
            self._process.stdin.close()
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=PATIENCE_S)
        self._complaints.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self.lines.put(line)
        code = self._process.wait()
        self.lines.put(self._explain(code, self._last_complaint()))

    def _last_complaint(self) -> str:
        try:
            self._complaints.seek(0)
            return last_line(self._complaints.read()[-4000:])
        except ValueError:  # closed meanwhile
            return ""


def last_line(complaints: bytes) -> str:
    """Return the last line of what a program wrote to its standard error, 300 characters at most; "" for nothing."""
    lines = complaints.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


def ending(code: int, complaint: str) -> str:
    """Why a runner ended, in one sentence; `code` is minus the signal for one that was killed."""
    how = f"the runner was killed by signal {-code}" if code < 0 else f"the runner ended with code {code}"
    hint = " (out of memory?)" if code == -9 else ""
    return f"{how}{hint}: {complaint}" if complaint else f"{how}{hint}"


def shell_code(code: int) -> int:
    """Turn the code a shell tells, 128 + the signal, into Python's minus the signal; 255 is ssh's and adb's own."""
    return 128 - code if 128 < code < 255 else code
