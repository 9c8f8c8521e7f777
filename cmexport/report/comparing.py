"""Runs that may be set side by side: of one command, where there is one that measured them all.

`cmexport bench` lets the artefacts of one command take turns. Two commands an hour apart compare two states of the
machine: on a shared one a single step has taken 22 ms and 68 ms on the same day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmexport.report.runs import Run
from cmexport.report.selecting import Shown


@dataclass(frozen=True)
class SideBySide:
    """One run for each of several artefacts; `together` where one command measured them all, in turns."""

    runs: tuple[Run, ...]
    together: bool

    @property
    def remark(self) -> str:
        """What a reader must know about the comparison; "" for a fair one."""
        return "" if self.together else "measured by different commands, not in turns: bench them together to compare"


def side_by_side(members: Sequence[Shown]) -> SideBySide:
    """Return the newest command that measured all of them; else the newest run of each."""
    choices = [{r.record.provenance.run: r for r in (*reversed(m.older), m.run)} for m in members]
    common = set.intersection(*(set(c) for c in choices)) if choices else set()
    if not common:
        return SideBySide(tuple(m.run for m in members), together=len(members) < 2)
    newest = max(common, key=lambda name: choices[0][name].record.provenance.created)
    return SideBySide(tuple(c[newest] for c in choices), together=True)
