"""What rounding one layer alone does to the pictures: two scores each for its weight, its input and both.

As MixDQ (Zhao et al. 2024, arXiv:2405.17873) has it for few-step models: signal-to-noise says how much a picture
changes, structural similarity whether what it shows does. A one-step model has no later step that repairs an error, and
its input law is known, so drawing pictures with one layer rounded measures what that layer costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, fx

from cmexport.errors import CheckpointError
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import to_module
from cmexport.quantize.codes import LayerCodes
from cmexport.quantize.layers import Layer, LayerInterpreter, Multiply
from cmexport.quantize.simulation import PEAK_SQUARED, Simulation

PICTURES = 16
"""On the demo a layer's mean PSNR then has a standard error of 0.5 dB (median; at most 2.6), and layers lie up to 42 dB
apart."""
SEED = 80_000
"""Noise that nothing else sees: verification draws from 0 on, calibration from 20,000, trials from 40,000, the
correction of biases from 60,000."""
SMALLEST = 1e-20
"""Mean squared errors below count as this one, 206 dB: a layer that nothing depends on."""

_WINDOW = 11
_SIGMA = 1.5


class KindScore(BaseModel):
    """The pictures with one layer's weight, input, or both in 8 bits, against the pictures without.

    Attributes:
        squared_errors: mean squared difference of each picture; pictures go from -1 to 1.
        ssim: mean structural similarity, 1 for equal pictures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    squared_errors: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...] = Field(min_length=1)
    ssim: float = Field(ge=-1, le=1)

    @property
    def psnr_db(self) -> float:
        """Peak 2.0, mean over the pictures."""
        return mean_psnr_db(self.squared_errors)

    @property
    def mean_squared_error(self) -> float:
        """Over all pictures."""
        return sum(self.squared_errors) / len(self.squared_errors)


class LayerScores(BaseModel):
    """One layer's scores by what is rounded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: KindScore
    activations: KindScore
    both: KindScore

    def of(self, kind: str) -> KindScore:
        """By name, one of `KINDS`."""
        score = getattr(self, kind)
        assert isinstance(score, KindScore)
        return score


def decibels(squared_error: float) -> float:
    """PSNR, peak 2.0, of a mean squared error."""
    return 10 * math.log10(PEAK_SQUARED / max(squared_error, SMALLEST))


def mean_psnr_db(squared_errors: Iterable[float]) -> float:
    """Mean PSNR, peak 2.0, of pictures with these mean squared errors."""
    each = [decibels(error) for error in squared_errors]
    return sum(each) / len(each)


def weights_only(codes: LayerCodes, x: Tensor, multiply: Multiply) -> Tensor:
    """The layer's output with its weight as the codes hold it, on the exact input."""
    return multiply(x, codes.weight)


def activations_only(codes: LayerCodes, x: Tensor, multiply: Multiply) -> Tensor:
    """The layer's output with the exact weight, on the rounded input; rounded as well where the scheme has it so."""
    y = multiply(codes.rounded_input(x))
    return y if codes.output is None else codes.output.rounded(codes.layer, y)


def _both(codes: LayerCodes, x: Tensor, multiply: Multiply) -> Tensor:
    return codes.computed(x, multiply)


KINDS: Mapping[str, Callable[[LayerCodes, Tensor, Multiply], Tensor]] = MappingProxyType(
    {"weights": weights_only, "activations": activations_only, "both": _both}
)
"""What is rounded, and what the layer then computes."""


class LayerScorer:
    """Draws the same few pictures again and again, each time with one layer rounded.

    Only what comes after the layer is computed anew. What comes before is kept as far as later nodes need it, the live
    values of one moment, so layers cost half as much when they come in the graph's order and any order is right.

    Args:
        captured: after the rewrites; its pictures as floats.
        pictures: how many.
        seed: of the first.

    Raises:
        CheckpointError: the unrounded pictures are not finite.
    """

    def __init__(self, captured: CapturedGraph, pictures: int = PICTURES, seed: int = SEED) -> None:
        simulation = Simulation(captured)
        inputs = simulation.inputs(range(seed, seed + pictures))
        self._exact = simulation.pictures(inputs)
        _require_finite(self._exact, "without any rounding")
        self._module = to_module(captured.program)
        self._nodes = list(self._module.graph.nodes)
        self._places = {node.name: place for place, node in enumerate(self._nodes)}
        self._paused = [_Paused(self._module, given) for given in inputs]

    def score(self, codes: LayerCodes) -> LayerScores:
        """Round this layer alone.

        Raises:
            CheckpointError: a picture is not finite.
        """
        return LayerScores(**{kind: self._score(codes, kind) for kind in KINDS})

    def _score(self, codes: LayerCodes, kind: str) -> KindScore:
        pictures = self.pictures(codes, kind)
        _require_finite(pictures, f"with {codes.layer.key} in 8 bits")
        errors = ((pictures.double() - self._exact.double()) ** 2).flatten(1).mean(dim=1)
        return KindScore(
            squared_errors=tuple(errors.tolist()), ssim=float(structural_similarity(pictures, self._exact).mean())
        )

    def pictures(self, codes: LayerCodes, kind: str) -> Tensor:
        """(pictures, C, H, W) with this layer rounded as `kind` says."""
        compute = KINDS[kind]

        def at(layer: Layer, node: fx.Node, x: Tensor, multiply: Multiply) -> Tensor:
            del layer, node
            return compute(codes, x, multiply)

        start = min(self._places[name] for name in codes.layer.nodes)
        run = LayerInterpreter(self._module, [codes.layer], at)
        with torch.no_grad():
            drawn = []
            for paused in self._paused:
                run.env = paused.before(start)
                _continue(run, self._nodes[start:])
                drawn.append(_result(run.env[self._nodes[-1]]))
        return torch.cat(drawn).float()


class _Paused:
    """One picture in the making, exact, stopped before some node."""

    def __init__(self, module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> None:
        self._run = fx.Interpreter(module)
        self._nodes = list(module.graph.nodes)
        self._inputs = inputs
        self._restart()

    def _restart(self) -> None:
        self._run.env = {n: self._inputs[n.name] for n in self._nodes if n.op == "placeholder"}
        self._place = 0

    def before(self, place: int) -> dict[fx.Node, object]:
        """The values that the node at `place` and later ones need, by node; the caller's to change."""
        if place < self._place:
            self._restart()
        _continue(self._run, self._nodes[self._place : place])
        self._place = place
        return dict(self._run.env)


def _continue(run: fx.Interpreter, nodes: Iterable[fx.Node]) -> None:
    """Run the nodes on the values at hand and drop what no later one needs."""
    for node in nodes:
        if node not in run.env:
            run.env[node] = run.run_node(node)
        for done in run.user_to_last_uses.get(node, ()):
            run.env.pop(done, None)


def _result(value: object) -> Tensor:
    while isinstance(value, tuple | list):
        value = value[0]
    assert isinstance(value, Tensor)
    return value


def _require_finite(pictures: Tensor, when: str) -> None:
    if not bool(torch.isfinite(pictures).all()):
        raise CheckpointError(
            f"scoring layers: pictures drawn {when} hold NaN or infinite numbers; is the checkpoint whole? "
            "`cmexport sample` shows what it draws"
        )


def structural_similarity(pictures: Tensor, others: Tensor) -> Tensor:
    """SSIM of each pair, its mean over channels and over windows that lie inside, (N,) float64.

    Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity"): a Gaussian window of
    11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, here with the range L = 2. Smaller pictures get a smaller window.

    Args:
        pictures: (N, C, H, W), -1 to 1.
        others: the same shape.
    """
    x, y = (value.double().flatten(0, 1)[:, None] for value in (pictures, others))
    size = min(_WINDOW, *x.shape[2:])
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-(places**2) / (2 * _SIGMA**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(value: Tensor) -> Tensor:
        return F.conv2d(value, window)

    mean_x, mean_y = mean(x), mean(y)
    # Rounding can leave a variance of -1e-17 behind.
    variance_x, variance_y = ((mean(v * v) - m * m).clamp_min(0) for v, m in ((x, mean_x), (y, mean_y)))
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).clamp(-1, 1).reshape(len(pictures), -1).mean(dim=1)
