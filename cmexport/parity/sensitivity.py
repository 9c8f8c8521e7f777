"""Whether a graph reacts to its prompt as the reference does.

Pictures that ignore their prompt look fine, and may still meet a gate for few bits: a vendor's 8-bit UNet reacted to
the text 19 times too weakly, and nobody noticed until a user compared (qualcomm/ai-hub-apps, issue 155). So the same
noise is drawn with two prompts, here and there, and the differences are compared: r = ||f(z, c1) - f(z, c0)|| over
the reference's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cmexport.errors import CheckpointError
from cmexport.parity.inputs import VerificationInputs
from cmexport.parity.metrics import as_bytes, channels_last
from cmexport.runner import Array

PAIRS = 16
"""The fewest pairs of pictures that tell how a graph reacts."""

# Root mean square of a reference's reaction, pictures in [-1, 1]: what float32's rounding alone makes of two runs.
_NO_REACTION = 1e-5


@dataclass(frozen=True)
class TextSensitivity:
    """How a rung's pictures react to another prompt, the noise and all else being the same.

    Attributes:
        pairs: how many pairs of pictures.
        ratio: root mean square of all differences between the two pictures of a pair, over the reference's; None where
            pictures hold NaN or Inf.
        least, most: the same of the pair that reacts least and most.
        cosine: between the two sides' differences, all pairs as one vector: 1 where pictures change in the same way.
        low, high: the gate, between which `ratio` must lie.
    """

    pairs: int
    ratio: float | None
    least: float | None
    most: float | None
    cosine: float | None
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the ratio is within the gate."""
        return self.ratio is not None and self.low <= self.ratio <= self.high


@dataclass(frozen=True)
class PromptPairs:
    """Second pictures of pairs: `inputs` are runs with other prompts, `bases` the runs with the first ones, in turn.

    `key` tells two of them apart that were made of the same inputs.
    """

    inputs: VerificationInputs
    key: tuple[tuple[int, int], ...]

    def first_pictures(self, images: Array) -> Array:
        """Pick each pair's first picture out of the pictures of all inputs."""
        batch = self.inputs.batch
        return np.concatenate([images[run * batch : (run + 1) * batch] for run, _ in self.key])


def prompt_pairs(inputs: VerificationInputs, wanted: int = PAIRS) -> PromptPairs | None:
    """Give at least `wanted` pictures the prompts of later ones.

    Returns:
        None where nothing stands for a prompt, where there is only one, or where the inputs are somebody's own.
    """
    signature = inputs.signature
    words = [i.name for i in signature.inputs if i.law is not None and i.law.worded and i.batch_axis is not None]
    if not words or inputs.recorded:
        return None

    def other(run: int, shift: int) -> dict[str, Array]:
        drawn = signature.draw(inputs.first + run * inputs.batch + shift, inputs.seed)
        return {name: drawn[name] for name in words}

    def pairs() -> Iterator[tuple[tuple[int, int], dict[str, Array]]]:
        for shift in range(1, PAIRS + 1):
            for run in range(len(inputs)):
                given, changed = inputs[run], other(run, shift)
                if any(not np.array_equal(given[name], changed[name]) for name in words):
                    yield (run, shift), given | changed

    runs_wanted = -(-wanted // inputs.batch)
    found = [pair for pair, _ in zip(pairs(), range(runs_wanted), strict=False)]
    if not found:
        return None
    runs = tuple(arrays for _, arrays in found)
    return PromptPairs(
        replace(inputs, pictures=len(runs) * inputs.batch, recorded=runs), tuple(key for key, _ in found)
    )


def reactions(first: Array, second: Array, *, in_bytes: bool = False) -> npt.NDArray[np.float64]:
    """Differences of the pictures of each pair, one row a pair, in units of [-1, 1]; `in_bytes` rounds them first."""
    a, b = (channels_last(as_bytes(p) if in_bytes else p) for p in (first, second))
    with np.errstate(invalid="ignore"):
        return (b - a).reshape(len(a), -1)


def check_reacts(reference: npt.NDArray[np.float64]) -> None:
    """Refuse a model whose pictures are the same whatever the prompt: there is nothing to hold an artefact to.

    Raises:
        CheckpointError: root mean square of the reactions below 1e-5.
    """
    rms = float(np.sqrt(np.mean(np.square(reference))))
    if rms < _NO_REACTION:
        raise CheckpointError(
            f"the checkpoint ignores its prompt: {len(reference)} pairs of prompts change its pictures by {rms:.0e} in "
            "PyTorch; its text encoder or cross-attention is damaged, or not the one it was trained with"
        )


def compare_reactions(
    reference: npt.NDArray[np.float64], candidate: npt.NDArray[np.float64], gate: tuple[float, float]
) -> TextSensitivity:
    """Measure a rung's `reactions` against the reference's."""
    pairs = len(reference)
    if not (np.isfinite(candidate).all() and np.isfinite(reference).all()):
        return TextSensitivity(pairs, None, None, None, None, *gate)
    squares, own = np.square(candidate).sum(axis=1), np.square(reference).sum(axis=1)
    ratio = math.sqrt(squares.sum() / own.sum())
    each = np.sqrt(squares[own > 0] / own[own > 0])
    product = float(np.sum(candidate * reference))
    cosine = product / math.sqrt(squares.sum() * own.sum()) if squares.any() else 0.0
    return TextSensitivity(pairs, ratio, float(each.min()), float(each.max()), cosine, *gate)
