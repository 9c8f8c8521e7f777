"""Medians and quartiles of turns, and which turns count.

Other programs slow a machine down for a moment. They slow down whatever runs at that moment, so an engine's time is
compared with the baseline's of the same round, and rounds whose baseline was slow are left out for every engine.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SLOW = 1.10
"""A round is dropped when its baseline took more than this times the lower quartile of all baselines."""


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of `count` numbers."""

    median: float
    lower: float
    upper: float
    count: int


def summarize(values: Sequence[float]) -> Summary:
    """Median and quartiles (linear interpolation between the sorted values, as numpy's default).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("nothing to summarize")
    ordered = sorted(values)
    return Summary(statistics.median(ordered), _quantile(ordered, 0.25), _quantile(ordered, 0.75), len(ordered))


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def steady_rounds(baseline: Mapping[int, float], slow: float = SLOW) -> frozenset[int]:
    """Rounds whose baseline was not slow: at most `slow` times the lower quartile of the baseline's times.

    At least a quarter of the rounds survive by construction.
    """
    if not baseline:
        return frozenset()
    limit = slow * summarize(list(baseline.values())).lower
    return frozenset(number for number, seconds in baseline.items() if seconds <= limit)


def ratios(times: Mapping[int, float], baseline: Mapping[int, float], rounds: frozenset[int]) -> list[float]:
    """An engine's time over the baseline's, for every counted round that both took part in."""
    return [times[n] / baseline[n] for n in sorted(rounds) if n in times and n in baseline]


def shuffled_orders(names: Sequence[str], rounds: int, seed: int) -> list[tuple[str, ...]]:
    """An order of turns for each round: every second one is the reverse of the one before.

    So in each pair of rounds every engine stands equally often before and after every other one, and a machine that
    slowly changes its clock favours nobody.
    """
    generator = random.Random(seed)
    orders: list[tuple[str, ...]] = []
    for number in range(rounds):
        if number % 2:
            orders.append(orders[-1][::-1])
        else:
            orders.append(tuple(generator.sample(list(names), len(names))))
    return orders
