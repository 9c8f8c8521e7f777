"""A process that ends with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

ORPHANED = 137
"""Exit code of a process whose parent has died: that of SIGKILL, which the kernel sends on Linux."""

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, dies; on other systems than Linux nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(ORPHANED)  # it died before we asked
