"""What each layer's input and output look like on the exact input law: unit noise through all steps.

The input of a consistency model's graph is exactly known, so calibration needs no data set: its pictures are drawn from
the very distribution that the app will feed, and more of them cost only time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
from torch import Tensor, fx

from cmexport.errors import CheckpointError
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import pictures_together, run_picture, run_together
from cmexport.graph.tracing import to_module
from cmexport.quantize.layers import Layer, LayerInterpreter, Multiply
from cmexport.quantize.products import Products

SEED = 20_000
"""Far from the seeds that verification uses (0 on): what is judged was never calibrated on."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How much to look at.

    Attributes:
        pictures: for ranges; what more of them would show is extrapolated (see `Extremes.expected`).
        gram_pictures: for the products that rounding by least squares needs; each brings hundreds of positions.
        seed: of the first picture.
        large_gram_elements: layers whose matrix of products would have more elements than this get none: 6,912
            input elements take 190 MB.
    """

    pictures: int = 512
    gram_pictures: int = 64
    seed: int = SEED
    large_gram_elements: int = 6912 * 6912


EULER_GAMMA = 0.5772156649
EXPECTED_PICTURES = 1_200
"""Input ranges are to hold the extremes of this many pictures. Of 1,500 pictures of the demo model the mean is 54.8 dB
and the worst 47.6 with 1,500 here, 55.0 and 46.2 with 1,000; with 10,000 most lose another 1.5 dB."""


@dataclass(eq=False)
class Extremes:
    """Largest value per channel, picture by picture.

    Attributes:
        largest: (C,) of all pictures.
        total, squares: (C,) sums over pictures of each picture's largest value, and of its square; float64.
        pictures: how many.
    """

    largest: Tensor
    total: Tensor
    squares: Tensor
    pictures: int = 0

    def add(self, values: Tensor) -> None:
        """Pictures' largest values per channel, (pictures, C)."""
        self.largest = torch.maximum(self.largest, values.amax(dim=0))
        self.total = self.total + values.double().sum(dim=0)
        self.squares = self.squares + (values.double() ** 2).sum(dim=0)
        self.pictures += len(values)

    def expected(self, pictures: int = EXPECTED_PICTURES) -> Tensor:
        """The largest value to expect of `pictures` pictures, (C,) float32, and at least what was seen; never negative.

        Maxima over many positions follow a Gumbel law (Fisher and Tippett 1928): from its mean and spread the maximum
        over more pictures than were drawn is known, channel by channel. A margin for all that covers the heavy tails
        wastes codes on the light ones.
        """
        mean = self.total / self.pictures
        spread = (self.squares / self.pictures - mean**2).clamp_min(0).sqrt() * (6**0.5 / math.pi)
        largest = mean + spread * (math.log(pictures) - EULER_GAMMA)
        return torch.maximum(largest.float(), self.largest).clamp_min(0)

    @classmethod
    def none(cls, channels: int) -> Self:
        """Before the first picture."""
        zeros = torch.zeros(channels, dtype=torch.float64)
        return cls(torch.full((channels,), -math.inf), zeros, zeros)


@dataclass(eq=False)
class LayerStatistics:
    """Running figures of one layer, over all its nodes.

    Attributes:
        inputs, outputs: of the values and of the negated values, by channel.
        gram: (K, K) sum over positions of products of input elements, K = C times the kernel's size; None if not
            taken.
        positions: how many positions `gram` sums over.
    """

    inputs: tuple[Extremes, Extremes]
    outputs: tuple[Extremes, Extremes]
    gram: Tensor | None = None
    positions: int = 0

    def input_range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest input to expect, (C,); zero is always inside."""
        return -self.inputs[1].expected(), self.inputs[0].expected()

    def output_range(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest output to expect, (O,), zero inside.

        With what was seen instead of what is to be expected the mean of the demo model is 0.13 dB better, and its worst
        six of 1,500 pictures 1.6 dB worse.
        """
        return -self.outputs[1].expected(), self.outputs[0].expected()


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics by layer key."""

    layers: dict[str, LayerStatistics] = field(default_factory=dict)
    pictures: int = 0


def calibrate(
    captured: CapturedGraph,
    layers: Sequence[Layer],
    options: CalibrationOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Observe `layers` while the graph draws pictures.

    Raises:
        CheckpointError: a layer's input or output is not finite.
    """
    module = to_module(captured.program)
    observers = {layer.key: _Observer(layer, options.large_gram_elements) for layer in layers}
    observed = {name: observers[layer.key] for layer in layers for name in layer.nodes}
    nodes = {node.name: node for node in module.graph.nodes}
    together = pictures_together(captured.weights.values())
    with torch.no_grad():
        for first in range(0, options.pictures, together):
            if first % 64 == 0:
                progress(f"calibrate {first}/{options.pictures}")
            last = min(first + together, options.pictures)
            multiplied = max(0, min(options.gram_pictures, last) - first)
            inputs = [captured.examples(options.seed + picture) for picture in range(first, last)]
            seen = run_together(partial(_observe, module, layers, multiplied > 0), inputs)
            for name, (limits, x) in seen.items():
                observed[name].widen(limits)
                for value in x:
                    observed[name].multiply(nodes[name], value[:multiplied].flatten(0, 1))
    # One at a time: the sums of all layers of the demo model take 0.4 GB.
    observed.clear()
    found = {layer.key: observers.pop(layer.key).statistics() for layer in layers}
    return Calibration(found, options.pictures)


def _observe(
    module: fx.GraphModule, layers: Sequence[Layer], with_inputs: bool, inputs: Mapping[str, Tensor]
) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """By node, for each channel the highest and the negated lowest number of its input, then of its output.

    And the input itself, where it is asked for.
    """
    seen: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}

    def at(layer: Layer, node: fx.Node, x: Tensor, multiply: Multiply) -> Tensor:
        y = multiply(x)
        # `amax` and `amin` are vectorized; `aminmax` along one axis is not, and takes 18 times as long as one of them.
        rows = layer.rows(x), layer.rows(y)
        limits = tuple(limit for r in rows for limit in (r.amax(dim=1), -r.amin(dim=1)))
        seen[node.name] = limits, (x,) if with_inputs else ()
        return y

    run_picture(LayerInterpreter(module, layers, at), inputs)
    return seen


class _Observer:
    """Adds up what one layer takes and gives."""

    def __init__(self, layer: Layer, large_gram_elements: int) -> None:
        self._layer = layer
        size = layer.channels * layer.elements_per_channel
        self._products = Products(layer) if size * size <= large_gram_elements else None
        self._extremes: list[Extremes] = []

    def widen(self, limits: tuple[Tensor, ...]) -> None:
        """Take in limits (pictures, channels) as `_observe` has them.

        Raises:
            CheckpointError: one of them is not finite.
        """
        finite = [bool(torch.isfinite(limit).all()) for limit in limits]
        if not all(finite):
            where = "output" if all(finite[:2]) else "input"
            raise CheckpointError(
                f"calibration: the {where} of {self._layer.key} is NaN or infinite; is the checkpoint whole? "
                "`cmexport sample` shows what it draws"
            )
        # An attention's output has fewer channels than its weight has rows, so only the values tell how many.
        self._extremes = self._extremes or [Extremes.none(limit.shape[1]) for limit in limits]
        for extremes, values in zip(self._extremes, limits, strict=True):
            extremes.add(values)

    def multiply(self, node: fx.Node, x: Tensor) -> None:
        """Take `x`, the input of `node`, into the sum of products."""
        if self._products is not None:
            self._products.add(node, x)

    def statistics(self) -> LayerStatistics:
        """What all evaluations showed."""
        high, low, output_high, output_low = self._extremes
        products = self._products
        if products is None or not products.begun:
            return LayerStatistics((high, low), (output_high, output_low))
        gram = products.total()
        return LayerStatistics((high, low), (output_high, output_low), gram, products.positions)
