"""Which weight gets which format: the smallest predicted error for a number of bits, or the fewest for an error."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmexport.quantize.formats import WeightFormat
from cmexport.quantize.rounding import rounded
from cmexport.quantize.weights import GraphWeight

_LEAST_CHANNELS = 64


@dataclass(frozen=True)
class Candidate:
    """One way to store one weight: its bits and the mean squared error of the picture that it is predicted to cause."""

    format: WeightFormat
    bits: int
    error: float


@dataclass(frozen=True)
class BitAllocation:
    """A format for every weight, in their order.

    Attributes:
        chosen: the candidates taken.
        elements: numbers in all weights together.
        predicted: whether the candidates' errors are the picture's; without sensitivities they are the weights' own.
    """

    chosen: tuple[Candidate, ...]
    elements: int
    predicted: bool = True

    @property
    def mean_bits(self) -> float:
        """Stored bits per element, scales and palettes included."""
        return sum(c.bits for c in self.chosen) / max(self.elements, 1)

    @property
    def predicted_db(self) -> float:
        """PSNR, peak 2.0, if the predictions hold."""
        error = sum(c.error for c in self.chosen)
        return math.inf if error == 0 else 10 * math.log10(4.0 / error)


def candidates(
    weight: GraphWeight, sensitivity: Tensor | None, formats: Sequence[WeightFormat], looked_at: int | None = None
) -> tuple[Candidate, ...]:
    """Every format, from the fewest bits on; without those that another one beats in both respects.

    Args:
        weight: to be stored.
        sensitivity: see `weight_sensitivity`.
        formats: that it may have.
        looked_at: elements, in whole output channels and no fewer than `_LEAST_CHANNELS`, from which errors are
            predicted; None: all of them.
    """
    value, scale = weight.value, 1.0
    channels = len(value) if looked_at is None else max(_LEAST_CHANNELS, looked_at // value[0].numel())
    if channels < len(value):
        some = torch.linspace(0, len(value) - 1, channels).long()
        value, scale = value[some], len(value) / channels
        sensitivity = None if sensitivity is None else sensitivity[some]
    found = []
    for format in formats:
        error = (rounded(value, sensitivity, format) - value) ** 2
        predicted = scale * float((error if sensitivity is None else error * sensitivity).sum())
        found.append(Candidate(format, format.stored_bits(weight.value.shape), predicted))
    found.sort(key=lambda c: (c.bits, c.error))
    useful: list[Candidate] = []
    for candidate in found:
        if not useful or candidate.error < useful[-1].error:
            useful.append(candidate)
    return tuple(useful)


def choose(
    options: Sequence[Sequence[Candidate]], elements: int, mean_bits: float, least_db: float = math.inf
) -> BitAllocation:
    """Upgrade, from the cheapest candidates on, whatever removes most error per bit, while the budget lasts.

    Greedy on each weight's convex hull is the optimum of the relaxed problem, and at most one weight away from the
    optimum here.

    Args:
        options: candidates of every weight, from the fewest bits on.
        elements: numbers in all weights together.
        mean_bits: budget, bits per element.
        least_db: stop once this much is predicted.
    """
    hulls = [_hull(option) for option in options]
    level = [0] * len(hulls)
    budget = mean_bits * elements - sum(hull[0].bits for hull in hulls)
    error = sum(hull[0].error for hull in hulls)
    goal = 0.0 if math.isinf(least_db) else 4.0 * 10 ** (-least_db / 10)
    queue = [(-_gain(hull, 0), index) for index, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(queue)
    while queue and error > goal:
        _, index = heapq.heappop(queue)
        now, then = hulls[index][level[index]], hulls[index][level[index] + 1]
        if then.bits - now.bits > budget:
            continue
        budget -= then.bits - now.bits
        error += then.error - now.error
        level[index] += 1
        if level[index] + 1 < len(hulls[index]):
            heapq.heappush(queue, (-_gain(hulls[index], level[index]), index))
    return BitAllocation(tuple(hull[at] for hull, at in zip(hulls, level, strict=True)), elements)


def _gain(hull: Sequence[Candidate], at: int) -> float:
    return (hull[at].error - hull[at + 1].error) / max(hull[at + 1].bits - hull[at].bits, 1)


def _hull(option: Sequence[Candidate]) -> list[Candidate]:
    """Candidates on the lower convex hull of error over bits, so that gains only fall."""
    hull: list[Candidate] = []
    for candidate in option:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], candidate):
            hull.pop()
        hull.append(candidate)
    return hull


def _slope(first: Candidate, second: Candidate) -> float:
    return (first.error - second.error) / max(second.bits - first.bits, 1)
