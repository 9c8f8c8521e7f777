"""Noise levels of latent few-step models: a table of alpha-bars and a scheduler's rules, as diffusers saves them.

A sample of such a model is x = sqrt(a) x0 + sqrt(1 - a) z with a = alpha-bar(t), t = 0 .. N-1. In variance-exploding
variables, y = x / sqrt(a) = x0 + sigma z, its level is sigma(t) = sqrt((1 - a) / a), which is what requests carry. The
network is called with x = y / sqrt(1 + sigma^2) and with t itself.

Read here are diffusers' LCMScheduler, TCDScheduler, and EulerDiscreteScheduler and EulerAncestralDiscreteScheduler with
"trailing" timesteps (SD-Turbo). What their code ignores is ignored too: `set_alpha_to_one` (no step of theirs goes
below timestep 0), `timestep_spacing` and `steps_offset` of the first two, `clip_sample` and `thresholding` of TCD.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from cmexport.errors import CheckpointError, UsageError

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "LCMScheduler": "lcm",
        "TCDScheduler": "tcd",
        "EulerDiscreteScheduler": "euler",
        "EulerAncestralDiscreteScheduler": "euler_ancestral",
    }
)
_NAMES = {"lcm": "LCM", "tcd": "TCD", "euler": "Euler", "euler_ancestral": "ancestral Euler"}
_ON_A_GRID = frozenset({"lcm", "tcd"})
"""Kinds whose timesteps are those of a distillation in `original_inference_steps` steps."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")
"""What a network may give: the noise, x0, or v = sqrt(a) z - sqrt(1 - a) x0 (arXiv:2202.00512)."""

# What would change the levels or the step itself; nobody distils with it, so it is refused and not imitated.
_REFUSED: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "lcm": {"thresholding": False},
        "tcd": {},
        "euler_ancestral": {},
        "euler": {
            "interpolation_type": "linear",
            "use_karras_sigmas": False,
            "use_exponential_sigmas": False,
            "use_beta_sigmas": False,
            "timestep_type": "discrete",
            "final_sigmas_type": "zero",
        },
    }
)


def kind_of(config: Mapping[str, Any]) -> str | None:
    """Return the few-step kind that a diffusers scheduler_config.json is of; None of one that takes many steps."""
    kind = KINDS.get(str(config.get("_class_name")))
    few = kind in _ON_A_GRID or config.get("timestep_spacing") == "trailing"
    return kind if few else None


@dataclass(frozen=True)
class AlphaSchedule:
    """A few-step scheduler of diffusers, as plain data.

    Attributes:
        kind: "lcm", "tcd", "euler" or "euler_ancestral".
        alphas_cumprod: alpha-bar of each timestep, 0 first, descending; float32 values, since training had these.
        prediction: what the network gives: "epsilon" (the noise), "sample" (x0) or "v_prediction".
        original_inference_steps: number of steps of the distillation, on whose grid LCM and TCD take their timesteps.
        timestep_scaling: factor of t in LCM's boundary condition.
        sigma_data: 0.5 in LCM's boundary condition.
        clip: LCM clamps x0 to plus and minus this; None: it doesn't.
        eta: TCD's stochasticity, 0 to 1.
    """

    kind: str
    alphas_cumprod: tuple[float, ...] = field(repr=False)
    prediction: str = "epsilon"
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    sigma_data: float = 0.5
    clip: float | None = None
    # diffusers' TCDScheduler.step.
    eta: float = 0.3

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: Path, kind: str | None = None) -> AlphaSchedule:
        """Read a diffusers scheduler_config.json; what it leaves out is the class's default.

        Args:
            config: the file's content.
            where: the file, for errors.
            kind: of the scheduler whose rules hold, whatever the file's own: what both have is read, as by
                `LCMScheduler.from_config(other.config)`; an Euler's timesteps are "trailing".

        Raises:
            CheckpointError: a scheduler of another kind, or a value that is wrong or not supported.
        """
        name = str(config.get("_class_name"))
        if kind is None and name not in KINDS:
            raise CheckpointError(
                f"{where}: its scheduler is {name}; few-step models have {', '.join(KINDS)}\n"
                "a model that needs more steps is no consistency model; if its weights or a --lora were distilled, say "
                "for which steps: --set scheduler=lcm, or tcd"
            )
        if kind is None and kind_of(config) is None:
            raise CheckpointError(
                f'{where}: {name} with timestep_spacing "{config.get("timestep_spacing", "linspace")}" is no few-step '
                'model, which starts at the last timestep, "trailing"\n'
                "if its weights or a --lora were distilled, say for which steps: --set scheduler=lcm, tcd or euler"
            )
        kind = kind or KINDS[name]
        fields = _Fields(config, where)
        for key, value in {"rescale_betas_zero_snr": False, **_REFUSED[kind]}.items():
            if config.get(key, value) != value:
                raise CheckpointError(f"{where}: {key} {config[key]} is not supported, only {value}")
        # Ancestral Euler has no "sample" in diffusers either.
        allowed = tuple(p for p in PREDICTIONS if (kind, p) != ("euler_ancestral", "sample"))
        clips = kind == "lcm" and config.get("clip_sample", False)
        alphas = _alphas_cumprod(fields, *((0.0001, 0.02, "linear") if kind not in _ON_A_GRID else _LATENT))
        return cls(
            kind,
            alphas,
            prediction=fields.word("prediction_type", "epsilon", allowed),
            original_inference_steps=fields.whole("original_inference_steps", 50, len(alphas)),
            timestep_scaling=fields.number("timestep_scaling", 10.0),
            clip=fields.number("clip_sample_range", 1.0) if clips else None,
        )

    @property
    def title(self) -> str:
        """What people call the scheduler."""
        return _NAMES[self.kind]

    @property
    def train_steps(self) -> int:
        """N, the number of timesteps."""
        return len(self.alphas_cumprod)

    @property
    def default_steps(self) -> int:
        """Evaluations where nobody says: 4, as LCM's and TCD's pipelines and cards have it; 1 of a turbo model."""
        return 4 if self.kind in _ON_A_GRID else 1

    @cached_property
    def sigmas(self) -> tuple[float, ...]:
        """The level of each timestep, ascending."""
        return tuple(math.sqrt((1.0 - alpha) / alpha) for alpha in self.alphas_cumprod)

    def sigma_of(self, timestep: int) -> float:
        """Return sqrt((1 - a) / a) of a timestep."""
        return self.sigmas[timestep]

    def timestep_of(self, sigma: float) -> int:
        """Find the timestep whose level is nearest; exact for levels of the table.

        Raises:
            UsageError: a level beyond the table.
        """
        table = self.sigmas
        if not table[0] * 0.999 <= sigma <= table[-1] * 1.001:
            raise UsageError(f"sigmas {sigma:g}: this model's levels lie between {table[0]:.4g} and {table[-1]:.7g}")
        above = min(bisect_left(table, sigma), len(table) - 1)
        return min((max(above - 1, 0), above), key=lambda t: abs(table[t] - sigma))

    def timesteps(self, steps: int, strength: float = 1.0) -> tuple[int, ...]:
        """Choose the timesteps of K evaluations, descending, as the scheduler's `set_timesteps`.

        Args:
            steps: K, diffusers' `num_inference_steps`.
            strength: how much of a picture to edit is painted anew, above 0, at most 1. LCM and TCD take K timesteps of
                this part of their grid (LatentConsistencyModelImg2ImgPipeline), Euler the last K * strength of its K
                (StableDiffusionImg2ImgPipeline).

        Raises:
            UsageError: more steps than there are, or a strength that leaves none.
        """
        if not 0.0 < strength <= 1.0:
            raise UsageError(f"--strength {strength:g}: must lie above 0 and be at most 1")
        part = "" if strength == 1.0 else f" at strength {strength:g}"
        if self.kind in _ON_A_GRID:
            stride = self.train_steps // self.original_inference_steps
            grid = [i * stride - 1 for i in range(1, int(self.original_inference_steps * strength) + 1)][::-1]
            if not 1 <= steps <= len(grid):
                raise UsageError(f"--steps {steps}: {self.title} has 1 to {len(grid)} steps here{part}")
            # numpy's floats decide between neighbours, as in diffusers.
            return tuple(grid[int(i)] for i in np.floor(np.linspace(0, len(grid), num=steps, endpoint=False)))
        if not 1 <= steps <= self.train_steps:
            raise UsageError(f"--steps {steps}: {self.title} has 1 to {self.train_steps} steps")
        trailing = np.arange(self.train_steps, 0, -self.train_steps / steps).round()[:steps] - 1
        kept = min(int(steps * strength), steps)
        if not kept:
            raise UsageError(f"--steps {steps}{part}: that is less than one step; --steps {math.ceil(1 / strength)}")
        return tuple(int(t) for t in trailing[steps - kept :])

    def check_timesteps(self, timesteps: Sequence[int]) -> tuple[int, ...]:
        """Return timesteps that a user chose, if the network has them.

        Raises:
            UsageError: none, out of range, or not descending.
        """
        shown = ",".join(map(str, timesteps))
        if not timesteps or not all(0 <= t < self.train_steps for t in timesteps):
            raise UsageError(f"--timesteps {shown}: this network knows 0 to {self.train_steps - 1}")
        if any(later >= earlier for earlier, later in pairwise(timesteps)):
            raise UsageError(f"--timesteps {shown}: must descend, e.g. {','.join(map(str, self.timesteps(2)))}")
        return tuple(timesteps)

    def account(self, timesteps: Sequence[int]) -> str:
        """Say in words what evaluates them: `4 of LCM's 50 steps: timesteps 999,759,499,259`."""
        count, listed = len(timesteps), ",".join(map(str, timesteps))
        if self.kind in _ON_A_GRID:
            return f"{count} of {self.title}'s {self.original_inference_steps} steps: timesteps {listed}"
        return f"{count} of {self.title}'s trailing steps: timesteps {listed}"


# Defaults of LCMScheduler and TCDScheduler: Stable Diffusion's table.
_LATENT = (0.00085, 0.012, "scaled_linear")


def _alphas_cumprod(fields: _Fields, start: float, end: float, shape: str) -> tuple[float, ...]:
    """Table of alpha-bars from the betas, in float32 as in diffusers.

    Raises:
        CheckpointError: a malformed table, or one that doesn't descend from below 1 to above 0.
    """
    count = fields.whole("num_train_timesteps", 1000)
    first, last = fields.number("beta_start", start), fields.number("beta_end", end)
    shape = fields.word("beta_schedule", shape, ("linear", "scaled_linear", "squaredcos_cap_v2"))
    if (trained := fields.numbers("trained_betas")) is not None:
        if len(trained) != count:
            raise CheckpointError(f"{fields.where}: {len(trained)} trained_betas for {count} num_train_timesteps")
        betas = torch.tensor(trained, dtype=torch.float32)
    elif shape == "linear":
        betas = torch.linspace(first, last, count, dtype=torch.float32)
    elif shape == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2
    else:
        bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        betas = torch.tensor([min(1 - b / a, 0.999) for a, b in pairwise(bars)], dtype=torch.float32)
    alphas = tuple(torch.cumprod(1.0 - betas, dim=0).tolist())
    if not (alphas[0] < 1.0 and alphas[-1] > 0.0 and all(a > b for a, b in pairwise(alphas))):
        raise CheckpointError(f"{fields.where}: its betas are no noise schedule: alpha-bar must fall from 1 towards 0")
    return alphas


@dataclass(frozen=True)
class _Fields:
    """Entries of a scheduler_config.json, checked; the methods raise CheckpointError with the file and the reason."""

    config: Mapping[str, Any]
    where: Path

    def number(self, key: str, default: float) -> float:
        """Return a positive number."""
        value = self.config.get(key, default)
        if type(value) not in (int, float) or not 0.0 < value < math.inf:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, not a positive number")
        return float(value)

    def whole(self, key: str, default: int, most: int = 100_000) -> int:
        """Return a whole number between 1 and `most`."""
        value = self.config.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(f"{self.where}: {key} is {value!r}, not a whole number from 1 to {most}")
        return value

    def word(self, key: str, default: str, allowed: Sequence[str]) -> str:
        """Return one of a few words."""
        value = self.config.get(key, default)
        if value not in allowed:
            raise CheckpointError(f"{self.where}: {key} is {value!r}; supported are {', '.join(allowed)}")
        return str(value)

    def numbers(self, key: str) -> list[float] | None:
        """Return a list of finite numbers, or None where there is none."""
        value = self.config.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(v) in (int, float) and math.isfinite(v) for v in value):
            raise CheckpointError(f"{self.where}: {key} is no list of numbers")
        return value
