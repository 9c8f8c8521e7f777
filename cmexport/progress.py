"""How long work tells what it is doing; free of heavy imports, so that the command line can show help at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Callbacks for long work: `step(name)` for stages, `pictures(rung, done, total)` while pictures are drawn."""

    step: Callable[[str], None] = lambda _: None
    pictures: Callable[[str, int, int], None] = lambda _name, _done, _total: None
