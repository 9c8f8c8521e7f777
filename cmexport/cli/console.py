"""Where output goes: results on stdout, progress and complaints on stderr, `--json` one object and nothing else."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cmexport.progress import Progress as Callbacks

# Narrower than this a parity table wraps its figures; a pipe has no width of its own.
_PIPE_WIDTH = 120


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def say(message: RenderableType, *, quiet: bool = False) -> None:
    """Print a result on stdout; markup is not interpreted in plain strings (paths hold brackets)."""
    if not quiet:
        _console(stderr=False).print(Text(message) if isinstance(message, str) else message)


def remark(message: str) -> None:
    """Print something worth knowing on stderr."""
    _console(stderr=True).print(Text(message, style="yellow"))


def complain(message: str) -> None:
    """Print a failure on stderr, without folding paths."""
    _console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def emit_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


@dataclass
class _Display:
    """One spinner for the stage, one bar for the pictures."""

    progress: Progress
    stage: TaskID
    pictures: TaskID | None = None
    rung: str = ""

    def step(self, name: str) -> None:
        self.progress.update(self.stage, description=name.replace("_", " "))

    def run(self, rung: str, done: int, total: int) -> None:
        if self.pictures is None or rung != self.rung:
            if self.pictures is not None:
                self.progress.remove_task(self.pictures)
            self.pictures, self.rung = self.progress.add_task(rung, total=total), rung
        self.progress.update(self.pictures, completed=done, total=total)


@contextmanager
def working(title: str) -> Iterator[Callbacks]:
    """Progress on stderr while something long runs; silent when stderr is not a terminal."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=_console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with progress:
        display = _Display(progress, progress.add_task(title, total=None))
        yield Callbacks(step=display.step, pictures=display.run)
