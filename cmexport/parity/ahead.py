"""Work done ahead in a forked process, on the core that tracing and translating leave idle.

Python code runs on one core. Of the 13 s that an export of the demo takes on two, 5 are such code, and the reference's
pictures (3.5 s of processor time) need nothing from it but the traced graph. A thread would not do: torch.export
switches oneDNN off for the whole process while it decomposes, which changes the pictures' last bits.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

import torch

from cmexport.lifetime import end_with

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def can_fork() -> bool:
    """Whether a forked process may compute: macOS's Accelerate does not survive a fork."""
    return sys.platform == "linux"


class Ahead(Generic[T]):
    """One piece of work, begun at once in a fork of this process, with one thread.

    Memory is shared until somebody writes to it. The process ends with this one, however that ends.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        """Begin `work`; what it returns travels through a pipe and must be picklable."""
        context = get_context("fork")
        self._results, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_do, args=(work, sender, os.getpid()), daemon=True)
        # Until the fork has its own: Ctrl-C in between would print a traceback from there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sender.close()

    def result(self) -> T | None:
        """Wait for what the work gave; None where the process failed or was killed: do it here then."""
        try:
            found: T = self._results.recv()
        except (EOFError, OSError):
            return None
        finally:
            self.close()
        return found

    def close(self) -> None:
        """End the process, whatever it is doing."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._results.close()


def _do(work: Callable[[], T], sender: Connection, parent: int) -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    end_with(parent)
    # The pool's threads did not come along; GNU OpenMP waits for them for ever.
    torch.set_num_threads(1)
    try:
        sender.send(work())
    except BaseException:  # the parent does the work itself and says what is wrong
        os._exit(1)
    os._exit(0)
