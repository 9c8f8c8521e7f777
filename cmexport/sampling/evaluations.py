"""The plan of constants that a sampler evaluates, folded in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from cmexport.model import ConsistencyModel
from cmexport.sampling.preconditioning import Scalings, c_noise_at, scalings_at


@dataclass(frozen=True)
class Evaluation:
    """One network evaluation with every scalar already folded in float64.

    Attributes:
        sigma: noise level.
        c_skip, c_out, c_in: preconditioning scalars at sigma.
        c_noise: what the time embedding receives.
        noise_std: standard deviation of the Gaussian noise that brings the sample to sigma: sigma itself on the
            first evaluation (the sample is sigma * noise; sqrt(1 + sigma^2) where the model takes unit noise for a
            finished sample, as LCM does), the renoise rule's value afterwards.
        c_noise_target: the second time of a network that is told where to jump; None: its own, sigma_min.
        mix: of plans that clip: the sample becomes mix[0] times the clipped picture plus mix[1] times itself.

    Of a sampler that adds no noise, c_skip and c_out are those of the whole step to the next level.
    """

    sigma: float
    c_skip: float
    c_out: float
    c_in: float
    c_noise: float
    noise_std: float
    c_noise_target: float | None = None
    mix: tuple[float, float] | None = None

    @classmethod
    def at(
        cls,
        model: ConsistencyModel,
        sigma: float,
        noise_std: float,
        scalings: Scalings | None = None,
        c_noise_target: float | None = None,
    ) -> Self:
        """Fold the constants of one level; `scalings` are the model's own there, unless given."""
        own = scalings_at(model.preconditioning, sigma, model.noise) if scalings is None else scalings
        c_noise = c_noise_at(model.c_noise, sigma)
        return cls(sigma, own.c_skip, own.c_out, own.c_in, c_noise, noise_std, c_noise_target)


@dataclass(frozen=True)
class Move:
    """What one evaluation does to the sample and to what it carries; see `sampling.heun`."""

    keep: float
    carried: float
    add: float
    half_keep: float
    half_add: float

    def after(self, x: Tensor, z: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sample and what it carries, once the network has answered."""
        return (
            self.keep * x + self.carried * z + self.add * answer,
            self.half_keep * x + self.half_add * answer,
        )


@dataclass(frozen=True)
class Evaluations:
    """All constants of one sampler: `evaluations` in order, then the closing level.

    `moves`, one for each evaluation, are of samplers that run as a loop around one copy of the network; without them
    every evaluation has a copy of its own. `renoises`: the later ones take fresh noise, and each gives a picture, which
    is clamped; otherwise only the last one does. `clip`: every evaluation's picture is clamped to plus and minus this
    before it is mixed. `noisy`: what every evaluation but the last gives is no picture but a noisy sample, which is not
    clamped even where noise is added to it.
    """

    evaluations: tuple[Evaluation, ...]
    renoise: str
    clamp: bool
    moves: tuple[Move, ...] = ()
    renoises: bool = True
    clip: float | None = None
    noisy: bool = False

    @property
    def steps(self) -> int:
        """K, the number of network evaluations."""
        return len(self.evaluations)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Levels evaluated, descending."""
        return tuple(e.sigma for e in self.evaluations)

    @property
    def looped(self) -> bool:
        """Whether it runs as a loop."""
        return bool(self.moves)

    @property
    def renoised(self) -> int:
        """How many evaluations take fresh noise: all but the first, or none."""
        return self.steps - 1 if self.renoises and not self.looped else 0

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels, descending; a loop may evaluate some twice."""
        return levels_of(self.sigmas)

    @property
    def level_indices(self) -> tuple[int, ...]:
        """Find for each evaluation which of `levels` it is at."""
        return tuple(self.levels.index(sigma) for sigma in self.sigmas)


def levels_of(sigmas: Sequence[float]) -> tuple[float, ...]:
    """Return the levels behind the sigmas evaluated."""
    return tuple(dict.fromkeys(sigmas))
