"""Which operations of a program lose accuracy: two runs compared, operation by operation, and who is to blame.

The reference keeps its numbers in float32, the candidate in half precision. An operation that passes an earlier error
on is as far off as the one that made it; what counts is how much worse its result is than its worst operand. Nothing
here knows where the programs come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cmexport.runner import Array

LARGEST_HALF = 65504.0
SMALLEST_NORMAL_HALF = 2.0**-14

ROUNDING_DB = 73.0
"""Signal to noise of normally distributed numbers that were rounded once to half precision: 73.7 dB, rounded down."""


@dataclass(frozen=True, eq=False)
class OperationPair:
    """What one operation gave in two runs on the same inputs.

    Attributes:
        name: unique in the program.
        type: what it does: "conv", ...
        location: its place in the program, counted from 0.
        operands: names of the operations whose results it reads; inputs and constants are exact and left out.
        half: whether its results are declared half precision.
        keepable: whether it could be computed in float32 instead.
        reference: its results in the reference run, of any numeric type.
        candidate: its results in the run that is examined, in the same order and shapes.
    """

    name: str
    type: str
    location: int
    operands: tuple[str, ...]
    half: bool
    keepable: bool
    reference: tuple[Array, ...]
    candidate: tuple[Array, ...]


@dataclass(frozen=True)
class OperationBlame:
    """How one operation fared over all inputs.

    Attributes:
        name: see `OperationPair`, as are the next five.
        type: see there.
        location: see there.
        operands: see there.
        half: see there.
        keepable: see there.
        elements: numbers in its results, over all inputs.
        snr_db: energy of the reference over energy of the difference; infinite if there is none, and minus infinite if
            the candidate has NaN or Inf where the reference has a number.
        operand_db: `snr_db` of its worst operand; infinite if all are exact.
        largest: largest finite magnitude in the reference.
        beyond: reference numbers that half precision can't hold: above 65504.
        overflows: numbers lost: `beyond` if it is declared half precision, or NaN or Inf in the candidate only.
        subnormal: share of the reference's numbers, 0 to 1, that are subnormal in half precision.
    """

    name: str
    type: str
    location: int
    operands: tuple[str, ...]
    half: bool
    keepable: bool
    elements: int
    snr_db: float
    operand_db: float
    largest: float
    beyond: int
    overflows: int
    subnormal: float

    @property
    def drop_db(self) -> float:
        """How far its result falls below its worst operand, and below one rounding to half precision: 0 or more.

        Infinite if it is the one that makes a NaN or Inf; 0 if it was given them.
        """
        start = min(self.operand_db, ROUNDING_DB)
        if self.snr_db == math.inf or start == -math.inf:
            return 0.0
        return max(start - self.snr_db, 0.0)

    @property
    def added(self) -> float:
        """Noise it adds, as a share of its result's energy: what it gave, less what it was given."""
        if self.snr_db == -math.inf:
            return 0.0 if self.operand_db == -math.inf else math.inf
        return max(_noise(self.snr_db) - _noise(self.operand_db), 0.0)

    @property
    def overflows_itself(self) -> bool:
        """Whether numbers are lost here, not only passed on: too large to hold, or NaN or Inf from good operands."""
        return self.overflows > 0 and (self.beyond > 0 or self.operand_db > -math.inf)


@dataclass
class _Tally:
    pair: OperationPair
    elements: int = 0
    signal: float = 0.0
    error: float = 0.0
    largest: float = 0.0
    beyond: int = 0
    overflows: int = 0
    broken: int = 0
    subnormal: int = 0

    def snr_db(self) -> float:
        if self.broken:
            return -math.inf
        if self.error == 0.0:
            return math.inf
        # Noise on zeros is as bad as it gets, but still finite: infinity is for NaN.
        return 10.0 * math.log10(max(self.signal, 1e-300) / self.error)


class BlameCollector:
    """Adds up pairs, over operations and inputs; it keeps a few numbers for each operation and no tensor."""

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = {}

    def add(self, pair: OperationPair) -> None:
        """Count one operation's results on one input. Operations come in program order.

        Raises:
            ValueError: the two runs gave results of different shapes.
        """
        if pair.name not in self._tallies:
            # The name and so on; a tally that held the arrays would hold the whole run.
            kept = OperationPair(
                pair.name, pair.type, pair.location, pair.operands, pair.half, pair.keepable, reference=(), candidate=()
            )
            self._tallies[pair.name] = _Tally(kept)
        tally = self._tallies[pair.name]
        for reference, candidate in zip(pair.reference, pair.candidate, strict=True):
            _count(tally, reference, candidate)

    def reports(self) -> tuple[OperationBlame, ...]:
        """One report for each operation, in program order."""
        snr = {name: tally.snr_db() for name, tally in self._tallies.items()}
        return tuple(
            OperationBlame(
                name=name,
                type=tally.pair.type,
                location=tally.pair.location,
                operands=tally.pair.operands,
                half=tally.pair.half,
                keepable=tally.pair.keepable,
                elements=tally.elements,
                snr_db=snr[name],
                operand_db=min((snr[o] for o in tally.pair.operands if o in snr), default=math.inf),
                largest=tally.largest,
                beyond=tally.beyond,
                overflows=tally.overflows,
                subnormal=tally.subnormal / max(tally.elements, 1),
            )
            for name, tally in self._tallies.items()
        )


def _count(tally: _Tally, reference: Array, candidate: Array) -> None:
    if reference.shape != candidate.shape:
        raise ValueError(f"{tally.pair.name}: shapes {reference.shape} and {candidate.shape}")
    if reference.size == 0:
        return
    wide, found = reference.astype(np.float64), candidate.astype(np.float64)
    magnitude = np.abs(wide)
    known = np.isfinite(wide)
    broken = known & ~np.isfinite(found)
    good = known & ~broken
    beyond = known & (magnitude > LARGEST_HALF)
    tally.elements += wide.size
    tally.signal += float(np.sum(np.square(wide), where=good))
    with np.errstate(invalid="ignore"):
        tally.error += float(np.sum(np.square(found - wide), where=good))
    tally.largest = max(tally.largest, float(magnitude.max(where=known, initial=0.0)))
    tally.beyond += int(beyond.sum())
    tally.overflows += int((broken | beyond).sum() if tally.pair.half else broken.sum())
    tally.broken += int(broken.sum())
    tally.subnormal += int(((magnitude > 0.0) & (magnitude < SMALLEST_NORMAL_HALF)).sum())


def first_over_budget(reports: Sequence[OperationBlame], budget_db: float) -> OperationBlame | None:
    """Return the first operation in program order that overflows or whose signal to noise is below `budget_db`."""
    return next((r for r in reports if r.overflows_itself or r.snr_db < budget_db), None)


def keep_list(reports: Sequence[OperationBlame], budget_db: float) -> tuple[str, ...]:
    """Names of the operations to compute in float32, in program order; deterministic.

    If any overflow: those, and those that read a number beyond half precision, which in float32 would overflow on its
    way into them. No others, since what else is wrong shows only when they are kept: look again then.

    If none does: whichever adds most noise, until the last result's signal to noise is at least `budget_db`. Its noise
    is taken to be shared in proportion to what each operation adds to its own result, so keeping one removes its share.
    On equal terms the earlier one. If all that can be kept would not do, none is.
    """
    by_name = {r.name: r for r in reports}
    kept = {r.name for r in reports if r.keepable and (r.overflows_itself or _reads_beyond(r, by_name))}
    if not kept and reports and -math.inf < reports[-1].snr_db < budget_db:
        kept = _noisiest(reports, _noise(budget_db) / _noise(reports[-1].snr_db))
    return tuple(r.name for r in reports if r.name in kept)


def _noisiest(reports: Sequence[OperationBlame], allowed: float) -> set[str]:
    """Return the fewest operations without which at most the share `allowed` of all added noise is left."""
    total = math.fsum(r.added for r in reports)
    left, kept = total, set()
    for report in sorted(reports, key=lambda r: (-r.added, r.location)):
        if left <= allowed * total:
            break
        if report.keepable:
            kept.add(report.name)
            left -= report.added
    return kept if left <= allowed * total else set()


def _reads_beyond(report: OperationBlame, by_name: dict[str, OperationBlame]) -> bool:
    return report.half and any(by_name[o].beyond > 0 for o in report.operands if o in by_name)


def _noise(snr_db: float) -> float:
    """Energy of the noise over that of the signal."""
    return float(10.0 ** (-snr_db / 10.0))
