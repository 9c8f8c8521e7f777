"""Which layers to leave in floating point for a picture that good, or a file that fast: measured, not predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmexport.quantize.int8 import Prepared
from cmexport.quantize.layer_harm import float_order
from cmexport.targets.base import TellStep
from cmexport.targets.onnx.int8 import Int8Graph, to_int8
from cmexport.targets.onnx.providers import ProviderProfile
from cmexport.targets.onnx.timing import latency_ratios

Write = Callable[[Int8Graph, str], Path]
"""Writes a graph as an ONNX file of that name and says where."""

UNSEEN_DB = 0.3
"""Asked beyond the budget: what the few trial pictures don't show of the many that verification draws."""
STEPS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48)
"""Layers left in floating point, tried in this order; the demo model has 64 that could compute in 8 bits."""


@dataclass(frozen=True)
class Point:
    """A plan with what was measured of it.

    Attributes:
        in_float: how many layers stay in floating point that the plan would have rounded; less than 0: layers it would
            not have rounded compute in 8 bits as well.
        db: mean PSNR of trial pictures drawn in PyTorch, peak 2.0.
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
    prepared: Prepared, profile: ProviderProfile, budget_db: float, plain: Path, write: Write, progress: TellStep
) -> Choice:
    """The fewest layers in floating point whose pictures keep `budget_db`; all of them, unmet, where none do."""
    order = float_order(prepared, progress)
    trials: dict[int, _Trial] = {}

    def tried(count: int) -> _Trial:
        if count not in trials:
            progress(f"{count} layers in float")
            trials[count] = _trial(prepared, profile, order, count, write, progress)
        return trials[count]

    def enough(count: int) -> bool:
        return tried(count).graph.simulated_db[0] >= budget_db + UNSEEN_DB

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
    prepared: Prepared, profile: ProviderProfile, budget: float, plain: Path, write: Write, progress: TellStep
) -> Choice:
    """The best picture among plans that take at most `budget` of the float32 file's time; else the fastest."""
    order = float_order(prepared, progress)
    steps = [s for s in STEPS if s < len(order)]
    trials = [_trial(prepared, profile, order, count, write, progress) for count in steps]
    if profile.contrib_ops:
        trials.append(_fastest(prepared, profile, write, progress))
    return _chosen(trials, plain, progress, lambda _, point: point.ratio <= budget, nearest=lambda point: -point.ratio)


def _trial(
    prepared: Prepared,
    profile: ProviderProfile,
    order: Sequence[str],
    count: int,
    write: Write,
    progress: TellStep,
) -> _Trial:
    graph = to_int8(prepared, profile, progress, order[:count])
    return _Trial(graph, write(graph, f"float-{count}"), count)


def _fastest(prepared: Prepared, profile: ProviderProfile, write: Write, progress: TellStep) -> _Trial:
    """Every convolution between pairs: no output is spared its rounding."""
    graph = to_int8(prepared, profile, progress, spare=False)
    return _Trial(graph, write(graph, "all-pairs"), -1)


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
            db=round(t.graph.simulated_db[0], 2),
            worst_db=round(t.graph.simulated_db[1], 2),
            ratio=round(ratio, 3),
            megabytes=round(t.path.stat().st_size / 1e6, 2),
        )
        for t, ratio in zip(trials, ratios, strict=True)
    ]
    pairs = list(zip(trials, points, strict=True))
    fitting = [pair for pair in pairs if fits(*pair)]
    best = max(fitting, key=lambda p: p[1].db) if fitting else max(pairs, key=lambda p: nearest(p[1]))
    return Choice(best[0].graph, best[1], tuple(sorted(points, key=lambda p: p.ratio)), bool(fitting))
