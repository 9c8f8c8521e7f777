"""Circles among things that need each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter


def find_cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of one circle, each needing the next and the last the first; empty where there is none."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        # graphlib lists each before the one that needs it, and the first again at the end.
        found: list[str] = error.args[1]
        return found[:0:-1]
    return []
