"""The nearest valid name, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_SHOWN = 12


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "coreml"?`, or what is known where nothing is near; "" where nothing is known."""
    names = list(dict.fromkeys(known))
    lowered = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower()[:200], lowered, n=1, cutoff=0.5)
    if near:
        return f'; did you mean "{lowered[near[0]]}"?'
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; known: {', '.join(names[:_SHOWN])}{more}" if names else ""


def nearest_file(path: Path, suffix: str | None = None) -> str:
    """`; did you mean "recipes/demo.toml"?` of the files beside a missing one; "" where none is near.

    Args:
        path: what is missing.
        suffix: only files that end so; default any.
    """
    try:
        beside = [entry.name for entry in path.parent.iterdir() if suffix is None or entry.suffix == suffix]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name[:200], beside, n=1, cutoff=0.5)
    return f'; did you mean "{path.with_name(near[0])}"?' if near else ""
