"""What libraries say about files that are read strictly here anyway: off, while they are called, and only theirs."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_LIBRARIES = ("diffusers", "huggingface_hub", "torch")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Log lines below errors, warnings and progress bars of torch, diffusers and the hub's client stay off stderr.

    A warning that is raised in the user's own code is shown.
    """
    levels = {name: logging.getLogger(name).level for name in _LIBRARIES}
    with warnings.catch_warnings(), ExitStack() as bars:
        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.ERROR)
            warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        _without_bars(bars)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _without_bars(stack: ExitStack) -> None:
    """Show no bars of a download in a pipe, where they would be a log's worth of lines; on a terminal they stay."""
    hub: Any = sys.modules.get("huggingface_hub.utils")
    if hub is None or sys.stderr.isatty() or hub.are_progress_bars_disabled():
        return
    hub.disable_progress_bars()
    stack.callback(hub.enable_progress_bars)
