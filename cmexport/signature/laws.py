"""What an app feeds an input, one picture at a time: the law that verification, calibration and timing draw from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from cmexport.runner import Array
from cmexport.signature.made_up import hole, made_up_picture


class Law:
    """How one picture's part of an input is drawn."""

    stand_in = False
    """Whether it only stands in for something of the user's own, a photo, which `sample` then has to be given."""
    worded = False
    """Whether it stands for what somebody says, a prompt: pictures that don't depend on it are wrong."""
    recorded = True
    """Whether a manifest can hold it."""

    @property
    def count(self) -> int | None:
        """How many values there are, 0 to count - 1; None where they can't be listed."""
        return None

    @property
    def values(self) -> tuple[float, ...] | None:
        """All values of a number, where they can be listed: what depends on them alone may be tabulated."""
        return None if self.count is None else tuple(map(float, range(self.count)))

    @property
    def limits(self) -> tuple[float, float] | None:
        """The least and the largest number that mean something; None where any does."""
        return None if self.count is None else (0, self.count - 1)

    @property
    def range(self) -> tuple[float, float] | None:
        """Between which numbers it draws; `limits`, or what an app keeps to without being refused otherwise."""
        return self.limits

    def text(self, shape: Sequence[int]) -> str:  # noqa: ARG002
        """As a manifest spells it, for parts of `shape`: "choice(10)"."""
        return type(self).__name__.lower()

    def fits(self, shape: Sequence[int]) -> bool:  # noqa: ARG002
        """Whether it can draw parts of `shape`."""
        return True

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:
        """Draw the part of picture `index`, of `shape`, without the axis that counts pictures."""
        raise NotImplementedError

    def between(self, first: Array, second: Array, weight: float) -> Array:  # noqa: ARG002
        """Return what lies on the way from `first` (weight 0) to `second` (1); `first` where there is no way."""
        return first


@dataclass(frozen=True)
class Normal(Law):
    """Standard normal noise of unit variance: exactly what a sampler is fed."""

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:  # noqa: ARG002
        """Draw unit noise by one call of `randn`."""
        noise: Array = torch.randn(tuple(shape), generator=generator).numpy()
        return noise

    def between(self, first: Array, second: Array, weight: float) -> Array:
        """Interpolate on the sphere; see `interpolate`."""
        mixed: Array = interpolate(torch.from_numpy(first), torch.from_numpy(second), weight).numpy()
        return mixed


@dataclass(frozen=True)
class Embedding(Law):
    """What an encoder outside the graph makes of something; standard normal numbers stand in, as nothing is known."""

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:  # noqa: ARG002
        """Draw numbers of unit variance by one call of `randn`."""
        drawn: Array = torch.randn(tuple(shape), generator=generator).numpy()
        return drawn

    def between(self, first: Array, second: Array, weight: float) -> Array:
        """Interpolate on a straight line."""
        mixed: Array = torch.lerp(torch.from_numpy(first), torch.from_numpy(second), weight).numpy()
        return mixed


@dataclass(frozen=True)
class Choice(Law):
    """One of `size` whole numbers; pictures take them in turn. `worded`: each of them stands for a prompt."""

    size: int
    worded: bool = False

    def __post_init__(self) -> None:
        _require(self.size > 0)

    def text(self, shape: Sequence[int]) -> str:  # noqa: ARG002
        """With its size."""
        return f"choice({self.size})"

    @property
    def count(self) -> int:
        """How many values there are: all can be listed."""
        return self.size

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:  # noqa: ARG002
        """Take `index` modulo the size; nothing is random."""
        return np.full(shape, index % self.size)


@dataclass(frozen=True)
class Range(Law):
    """A number from `low` to `high`: a difficulty, a guidance scale; one of `steps` equally spaced ones, if said."""

    low: float
    high: float
    steps: int | None = None

    def __post_init__(self) -> None:
        _require(self.low <= self.high)
        _require(self.steps is None or (self.steps > 1 and self.low < self.high))

    @property
    def values(self) -> tuple[float, ...] | None:
        """All of its values, where they can be listed."""
        if self.steps is None:
            return None
        return tuple(self.low + i * (self.high - self.low) / (self.steps - 1) for i in range(self.steps))

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value; both belong to the range."""
        return self.low, self.high

    def text(self, shape: Sequence[int]) -> str:  # noqa: ARG002
        """With its ends."""
        return (
            f"range({self.low:g},{self.high:g})"
            if self.steps is None
            else f"range({self.low:g},{self.high:g},{self.steps})"
        )

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:
        """Draw evenly between the ends; of listed values take the next."""
        if self.values is not None:
            # In turn, as classes: every row of a table is looked at.
            return np.full(shape, self.values[index % len(self.values)], dtype=np.float32)
        drawn: Array = (self.low + (self.high - self.low) * torch.rand(tuple(shape), generator=generator)).numpy()
        return drawn

    def between(self, first: Array, second: Array, weight: float) -> Array:
        """Interpolate on a straight line."""
        ends = torch.from_numpy(first), torch.from_numpy(second)
        mixed: Array = torch.lerp(*ends, weight).numpy()
        return mixed


@dataclass(frozen=True)
class Tokens(Law):
    """A prompt in a tokenizer's numbers, as CLIP takes it: `begin`, words, `end`, then `pad` as often as there is room.

    Attributes:
        vocabulary: how many tokens there are.
        begin, end, pad: tokens around the words; None pads with `end`, as all but SDXL's second encoder do.
        sentences: words of prompts that people write, drawn in turn; empty draws any words.
    """

    vocabulary: int
    begin: int
    end: int
    pad: int | None = None
    sentences: tuple[tuple[int, ...], ...] = ()
    worded = True

    def __post_init__(self) -> None:
        around = (self.begin, self.end, self.end if self.pad is None else self.pad)
        _require(all(0 <= token < self.vocabulary for token in (*around, *chain(*self.sentences))))

    @property
    def limits(self) -> tuple[float, float]:
        """The first and the last token of the vocabulary."""
        return 0, self.vocabulary - 1

    def text(self, shape: Sequence[int]) -> str:
        """With the length of a sentence."""
        return f"tokens({shape[0]})"

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether it is a row, of one word at least."""
        return len(shape) == 1 and shape[0] > 1

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:
        """Take the sentences in turn; without any, draw any number of any words."""
        (length,) = shape
        if self.sentences:
            return self.row(self.sentences[index % len(self.sentences)], length)
        words = int(torch.randint(length - 1, (1,), generator=generator))
        return self.row(torch.randint(self.vocabulary, (words,), generator=generator).tolist(), length)

    def row(self, words: Sequence[int], length: int) -> Array:
        """Put `words`, as many as there is room for, between begin and end; returns `length` int64."""
        kept = [self.begin, *words[: length - 2], self.end]
        return np.array(kept + [self.end if self.pad is None else self.pad] * (length - len(kept)))


@dataclass(frozen=True, eq=False)
class Rows(Law):
    """What a part before made, in turn: embeddings of prompts (`worded`), latents; too large for a manifest."""

    rows: Sequence[Array]
    worded: bool = True
    recorded = False

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:  # noqa: ARG002
        """Take the rows in turn; nothing is random."""
        return self.rows[index % len(self.rows)]


@dataclass(frozen=True)
class Photo(Law):
    """A picture to edit, (C, H, W) in [-1, 1], with noise of standard deviation `noise` on it already."""

    noise: float = 0.0
    stand_in = True

    @property
    def range(self) -> tuple[float, float] | None:
        """Of pictures without noise."""
        return None if self.noise else (-1.0, 1.0)

    def fits(self, shape: Sequence[int]) -> bool:
        """(C, H, W)."""
        return len(shape) == 3

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:  # noqa: ARG002
        """Make up a picture."""
        return made_up_picture(shape, generator, self.noise)


@dataclass(frozen=True)
class Hole(Law):
    """A mask (1, H, W): 1 where the picture is kept, 0 in a hole."""

    stand_in = True

    @property
    def range(self) -> tuple[float, float]:
        """Paint or keep."""
        return 0.0, 1.0

    def fits(self, shape: Sequence[int]) -> bool:
        """(1, H, W)."""
        return len(shape) == 3

    def draw(self, shape: Sequence[int], generator: torch.Generator, index: int) -> Array:  # noqa: ARG002
        """Make a hole of half the height and width somewhere."""
        return hole(shape, generator)


_LAWS: Mapping[str, type[Law]] = {
    law.__name__.lower(): law for law in (Normal, Embedding, Choice, Range, Tokens, Photo, Hole)
}


def law_named(text: str, parameters: Mapping[str, object]) -> Law:
    """Make the law that a manifest spells so, "choice(10)", with all its parameters by name.

    Raises:
        ValueError: there is none, or it has other parameters.
    """
    kind = text.partition("(")[0]
    if kind not in _LAWS:
        raise ValueError(f"unknown law '{kind[:40]}', known are {', '.join(_LAWS)}")
    return TypeAdapter(_LAWS[kind]).validate_python(dict(parameters))


def _require(sound: bool) -> None:
    if not sound:
        raise ValueError("a law without anything to draw")


def interpolate(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of two noises of one shape; weight 0 is `first`, 1 is `second`.

    z = sin((1-w) psi)/sin(psi) z_0 + sin(w psi)/sin(psi) z_1 with psi the angle between them (Song et al. 2023,
    appendix D): unlike a straight line it keeps the norm, so every z is as likely as a drawn one.
    """
    a, b = first.double(), second.double()
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-9:
        return first if weight < 0.5 else second
    mixed = (math.sin((1.0 - weight) * angle) * a + math.sin(weight * angle) * b) / math.sin(angle)
    return mixed.to(first.dtype)
