"""Was the device quiet while it was measured? Two witnesses, neither of which knows the model.

- *Others*: the share of the processor's time that other programs had, on the cores that the runs may use. Beside two
  busy processes on two cores a file of 21 ms read 188, and its canary, which needs one core for a millisecond, had
  hardly noticed.
- *The canary*: a fixed piece of arithmetic, its mean over its best. All there is where a program can't see others
  (browsers, macOS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

BUSY_SHARE = 0.10
"""Others' share of the processor above this makes a figure `busy`: a fifth of a core, on two."""

CANARY_SLOW = 1.30
"""Where others can't be seen: a canary whose mean is this many times its best was kept waiting. Clocks that come and
go make 1.1."""

_FEWEST_CANARIES = 20


class Measured(Protocol):
    """A batch of timed runs; see `samples.SampleBlock`."""

    @property
    def canary_ms(self) -> Sequence[float]:
        """The canary around the runs."""
        ...

    @property
    def others(self) -> float | None:
        """Share of the processor's time that others had meanwhile."""
        ...

    @property
    def start_s(self) -> float:
        """When the runs began, on the device's monotonic clock."""
        ...

    @property
    def end_s(self) -> float:
        """When the runs ended, on the device's monotonic clock."""
        ...


@dataclass(frozen=True)
class Witnesses:
    """What both say; None where one can't be heard."""

    others: float | None
    canary_slowdown: float | None

    @property
    def busy(self) -> bool | None:
        """Whether other work disturbed the runs; None where nobody knows."""
        if self.others is not None:
            return self.others > BUSY_SHARE
        return None if self.canary_slowdown is None else self.canary_slowdown > CANARY_SLOW


def witnesses(blocks: Sequence[Measured]) -> Witnesses:
    """Over all timed runs: others' share weighted with time, the canary's mean over its best."""
    told = [(block.others, max(block.end_s - block.start_s, 1e-9)) for block in blocks if block.others is not None]
    others = None
    if told and len(told) == len(blocks):
        others = sum(share * lasted for share, lasted in told) / sum(lasted for _, lasted in told)
    canaries = [value for block in blocks for value in block.canary_ms]
    slow = None
    if len(canaries) >= _FEWEST_CANARIES:
        slow = sum(canaries) / len(canaries) / min(canaries)
    return Witnesses(others, slow)
