"""Which layers to leave in floating point for a picture that good, or a file that fast: measured, not predicted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cmexport.quantize.int8 import Prepared
from cmexport.quantize.layer_harm import float_order
from cmexport.targets.base import TellStep
from cmexport.targets.onnx.int8 import Int8Graph, to_int8
from cmexport.targets.onnx.providers import ProviderProfile
from cmexport.targets.onnx.timing import latency_ratios

Write = Callable[[Int8Graph, str], Path]
"""Writes a graph as an ONNX file of that name and says where."""
Score = Callable[[Path], Sequence[float]]
"""PSNR in dB of each trial picture that a file draws; see `judging.Judge`."""

UNSEEN_DB = 0.3
"""The least that is asked beyond the budget: verification draws other pictures."""
UNSEEN_ERRORS = 2.0
"""Standard errors of the trial pictures' mean that are asked beyond the budget, where that is more. Pictures of words
differ by 3 to 4 dB: the mean of 64 has an error of 0.4."""
STEPS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48)
"""Layers left in floating point, tried in this order; the demo model has 64 that could compute in 8 bits."""


@dataclass(frozen=True)
class Point:
    """A plan with what was measured of it.

    Attributes:
        in_float: how many layers stay in floating point that the plan would have rounded; less than 0: layers it would
            not have rounded compute in 8 bits as well.
        db: mean PSNR of trial pictures that the file draws, peak 2.0.
        worst_db: the worst of them.
        ratio: latency over that of the float32 file.
        megabytes: of the file.
    """

    in_float: int
    db: float
    worst_db: float
    ratio: float
    megabytes: float


@dataclass(frozen=True, eq=False)
class _Trial:
    graph: Int8Graph
    path: Path
    in_float: int
    scores: Sequence[float]

    @property
    def sure_db(self) -> float:
        """The mean PSNR less what other pictures may lack of it."""
        error = stdev(self.scores) / math.sqrt(len(self.scores)) if len(self.scores) > 1 else 0.0
        return fmean(self.scores) - max(UNSEEN_DB, UNSEEN_ERRORS * error)


@dataclass(frozen=True, eq=False)
class Choice:
    """The plan taken, the frontier it lies on, and whether the budget was met."""

    graph: Int8Graph
    point: Point
    frontier: tuple[Point, ...]
    met: bool

    def facts(self, budget: dict[str, float]) -> dict[str, Any]:
        """What the manifest says of the plan taken."""
        return {
            **self.graph.facts,
            **budget,
            "budget_met": self.met,
            "chosen_in_float": self.point.in_float,
            "frontier": [asdict(p) for p in self.frontier],
        }


def within_db(
    prepared: Prepared,
    profile: ProviderProfile,
    budget_db: float,
    plain: Path,
    write: Write,
    score: Score,
    progress: TellStep,
) -> Choice:
    """The fewest layers in floating point whose pictures keep `budget_db`; all of them, unmet, where none do."""
    order = float_order(prepared, progress)
    trials: dict[int, _Trial] = {}

    def tried(count: int) -> _Trial:
        if count not in trials:
            progress(f"{count} layers in float")
            trials[count] = _trial(prepared, profile, order, count, write, score, progress)
        return trials[count]

    def enough(count: int) -> bool:
        return tried(count).sure_db >= budget_db

    steps = [s for s in STEPS if s < len(order)] + [len(order)]
    reached = next((s for s in steps if enough(s)), None)
    if reached:
        low, high = steps[steps.index(reached) - 1], reached
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        reached = high
    return _chosen(
        list(trials.values()),
        plain,
        progress,
        lambda t, _: reached is not None and t.in_float == reached,
        nearest=lambda point: point.db,
    )


def within_latency(
    prepared: Prepared,
    profile: ProviderProfile,
    budget: float,
    plain: Path,
    write: Write,
    score: Score,
    progress: TellStep,
) -> Choice:
    """The best picture among plans that take at most `budget` of the float32 file's time; else the fastest."""
    order = float_order(prepared, progress)
    steps = [s for s in STEPS if s < len(order)]
    trials = [_trial(prepared, profile, order, count, write, score, progress) for count in steps]
    if profile.contrib_ops:
        trials.append(_fastest(prepared, profile, write, score, progress))
    return _chosen(trials, plain, progress, lambda _, point: point.ratio <= budget, nearest=lambda point: -point.ratio)


def _trial(
    prepared: Prepared,
    profile: ProviderProfile,
    order: Sequence[str],
    count: int,
    write: Write,
    score: Score,
    progress: TellStep,
) -> _Trial:
    graph = to_int8(prepared, profile, progress, order[:count])
    path = write(graph, f"float-{count}")
    return _Trial(graph, path, count, score(path))


def _fastest(prepared: Prepared, profile: ProviderProfile, write: Write, score: Score, progress: TellStep) -> _Trial:
    """Every convolution between pairs: no output is spared its rounding."""
    graph = to_int8(prepared, profile, progress, spare=False)
    path = write(graph, "all-pairs")
    return _Trial(graph, path, -1, score(path))


def _chosen(
    trials: Sequence[_Trial],
    plain: Path,
    progress: TellStep,
    fits: Callable[[_Trial, Point], bool],
    nearest: Callable[[Point], float],
) -> Choice:
    """Measure all; of those that fit the best picture, of none the one that `nearest` rates highest."""
    progress("measure latency")
    ratios = latency_ratios([plain, *(t.path for t in trials)])[1:]
    points = [
        Point(
            in_float=t.in_float,
            db=round(fmean(t.scores), 2),
            worst_db=round(min(t.scores), 2),
            ratio=round(ratio, 3),
            megabytes=round(t.path.stat().st_size / 1e6, 2),
        )
        for t, ratio in zip(trials, ratios, strict=True)
    ]
    pairs = list(zip(trials, points, strict=True))
    fitting = [pair for pair in pairs if fits(*pair)]
    best = max(fitting, key=lambda p: p[1].db) if fitting else max(pairs, key=lambda p: nearest(p[1]))
    return Choice(best[0].graph, best[1], tuple(sorted(points, key=lambda p: p.ratio)), bool(fitting))
