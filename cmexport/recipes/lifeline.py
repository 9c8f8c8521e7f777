"""A step's process does not outlive the run that started it, however that ended.

The run holds the writing end of a pipe and never writes; the kernel closes it when the run dies, also by SIGKILL. On
Linux the kernel itself kills the step besides, also while it is deep in a library.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType

from cmexport.lifetime import ORPHANED, end_with

VARIABLE = "CMEXPORT_LIFELINE"
GRACE_S = 5.0
"""What a benchmark may take to end what it started on a device."""


class Lifeline:
    """The run's side: `fd` is for the steps to inherit."""

    def __init__(self) -> None:
        self.fd, self._held = os.pipe()

    def environment(self, *, gentle: bool) -> Mapping[str, str]:
        """What tells a step about it.

        Args:
            gentle: end as by Ctrl-C first: something outside this machine is to be cleared up.
        """
        return MappingProxyType({VARIABLE: f"{self.fd}:{os.getpid()}:{'gentle' if gentle else 'at once'}"})

    def close(self) -> None:
        """Let go."""
        os.close(self.fd)
        os.close(self._held)


def follow_parent() -> None:
    """The step's side; does nothing in a process that no run started."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return
    fd, parent, manner = text.split(":")
    gentle = manner == "gentle"
    if not gentle:
        end_with(int(parent))
    threading.Thread(target=_wait_and_end, args=(int(fd), gentle), daemon=True).start()


def _wait_and_end(fd: int, gentle: bool) -> None:
    os.read(fd, 1)
    if gentle:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
    os._exit(ORPHANED)
