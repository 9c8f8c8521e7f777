"""A runner in "served" mode as an object: commands in, checked lines out, one process for each artefact."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping
from typing import Protocol

from cmexport.bench.lines import ErrorLine, Line, RawLine, parse_line
from cmexport.bench.outcome import JobOutcome
from cmexport.errors import CmexportError

QUIT = b'{"do": "quit"}\n'
"""Ends a runner at once."""


class EngineGoneError(CmexportError):
    """The runner is not there any more: it died, or the connection did (`flag`)."""

    def __init__(self, message: str, flag: str | None = None) -> None:
        super().__init__(message)
        self.flag = flag


class Pipe(Protocol):
    """Two directions of bytes to a process."""

    @property
    def lines(self) -> queue.Queue[bytes | EngineGoneError]:
        """Whole lines as they arrive; the reason, when no more will."""
        ...

    def write(self, text: bytes) -> None:
        """Send bytes to the engine's process.

        Raises:
            EngineGoneError: nobody is there to take it.
        """
        ...

    def close(self) -> None:
        """End the process and wait until it is gone."""
        ...


class Engine:
    """One artefact, opened by a runner that waits for commands; its lines go into `outcome`."""

    def __init__(self, pipe: Pipe, outcome: JobOutcome) -> None:
        self.outcome = outcome
        self._pipe = pipe

    def ask(self, command: Mapping[str, object] | None, until: str, tell: Callable[[Line], None] | None = None) -> None:
        """Send a command (or none) and take lines until one of kind `until`.

        Raises:
            EngineGoneError: the runner died, said `error`, or wrote what is no line; noted in the outcome.
        """
        try:
            if command is not None:
                self._pipe.write(json.dumps(command).encode() + b"\n")
            while True:
                line = self._next()
                if line is None:
                    continue
                self.outcome.add(line)
                if tell is not None and not isinstance(line, RawLine):
                    tell(line)
                if isinstance(line, ErrorLine):
                    raise EngineGoneError(line.message)
                if line.kind == until:
                    return
        except EngineGoneError as error:
            self.outcome.fail("connection" if error.flag == "disconnected" else "run", str(error), error.flag)
            raise
        except CmexportError as error:
            self.outcome.fail("run", str(error), "malformed_output")
            raise EngineGoneError(str(error), "malformed_output") from error

    def close(self) -> None:
        """End the engine's process."""
        self._pipe.close()

    def _next(self) -> Line | None:
        while True:
            try:
                # In slices: a wait without an end would keep Ctrl-C waiting too on some systems.
                item = self._pipe.lines.get(timeout=0.5)
            except queue.Empty:
                continue
            if isinstance(item, EngineGoneError):
                raise item
            return parse_line(item)
