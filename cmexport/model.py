"""The nouns that every room shares: what a checkpoint is, once it has been read.

Nothing here knows a file format or a target. A `ConsistencyModel` is a network F plus the six choices that turn it
into f(x, sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma))
(Song et al. 2023, arXiv:2303.01469, eq. 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from cmexport.naming import model_name

SettingValue = bool | int | float | str | tuple[int | float, ...] | None


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels a model was trained on (Karras et al. 2022, arXiv:2206.00364, eq. 5).

    Attributes:
        sigma_min: smallest level, where f is the identity; same unit as the pictures, which span [-1, 1].
        sigma_max: largest level, where sampling starts.
        sigma_data: standard deviation of the training pictures.
        rho: curvature of the level spacing.
        levels: N, the number of discrete levels used in training; only names schedules, never enters f.
    """

    sigma_min: float
    sigma_max: float
    sigma_data: float
    rho: float
    levels: int


@dataclass(frozen=True)
class Conditioning:
    """What besides noise the network takes: `classes` labels 0 .. classes-1, or none."""

    classes: int | None = None


@dataclass(frozen=True)
class Setting:
    """One resolved constant and where it came from, e.g. `Setting("sigma_max", 80.0, "default of cd_*")`.

    `ambiguous` marks a guess; `remark` is what else the user should hear of it, e.g. that another setting wins.
    """

    name: str
    value: SettingValue
    origin: str
    ambiguous: bool = False
    remark: str = ""

    @property
    def text(self) -> str:
        """The value as `--set` spells it: `true`, `1,2,4`, `16x32`."""
        if isinstance(self.value, tuple):
            return ("x" if self.name == "image_size" else ",").join(map(str, self.value))
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)

    @property
    def option(self) -> str:
        """What sets it on the command line: `--set num_heads=4`."""
        return f"--set {self.name}={self.text}"


@dataclass(frozen=True)
class Space:
    """Where the pictures live: channels, height and width in pixels.

    `multiple` is what height and width must be multiples of, 2 to the number of halvings inside the network; 1 where
    the network doesn't say.
    """

    channels: int
    height: int
    width: int
    multiple: int = 1

    @property
    def size(self) -> int | tuple[int, int]:
        """The setting `image_size`: one number for a square, else height and width."""
        return self.height if self.height == self.width else (self.height, self.width)

    @property
    def text(self) -> str:
        """Height x width, for people: `16x32`."""
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class CheckpointSource:
    """Which bytes the weights were read from.

    Attributes:
        path: the file or folder.
        format: in words.
        sha256: of the file's bytes, of all files of weights that lie in shards, or of the weights of a network that was
            built by code.
        size_bytes: of the same.
        reference: what finds them again where the path alone does not: a hub id, or `/absolute/module.py:build`.
        name: what artefacts are called after; by default `naming.model_name(path)`.
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    reference: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", model_name(self.path))

    @property
    def again(self) -> str:
        """What `load_checkpoint` takes to read the same weights, from any working directory."""
        return self.reference or str(self.path.absolute())


@dataclass(frozen=True)
class ConsistencyModel:
    """A network and everything needed to sample from it.

    Attributes:
        network: F, in eval mode, float32. Called as `network(x, c_noise)` or `network(x, c_noise, label)` with x
            (N, C, H, W), c_noise (1,) float64 and label (N,) int64; returns (N, C, H, W).
        architecture: name and keyword arguments of the network, as plain data for the manifest.
        space: channels, height and width of the pictures.
        preconditioning: key into `sampling.preconditioning.PRECONDITIONINGS`.
        c_noise: key into `sampling.preconditioning.C_NOISE`.
        noise: the trained noise range.
        conditioning: what the network takes besides noise.
        renoise: key into `sampling.schedules.RENOISE_RULES`.
        clamp: whether every evaluation's picture is clamped to [-1, 1].
        source: the file the weights came from.
        settings: every constant with its origin, in the order `inspect` shows them.
    """

    network: nn.Module
    architecture: Mapping[str, Any]
    space: Space
    preconditioning: str
    c_noise: str
    noise: NoiseRange
    conditioning: Conditioning
    renoise: str
    clamp: bool
    source: CheckpointSource
    settings: tuple[Setting, ...] = field(default=())

    @property
    def channels(self) -> int:
        """Picture channels C."""
        return self.space.channels

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of square pictures, else height and width, pixels: the setting of that name."""
        return self.space.size

    @property
    def assumed(self) -> tuple[Setting, ...]:
        """The settings that are guesses: nothing in the file, its name or the command line says them."""
        return tuple(setting for setting in self.settings if setting.ambiguous)

    @property
    def parameters(self) -> int:
        """Number of weights in the network."""
        return sum(p.numel() for p in self.network.parameters())


@dataclass(frozen=True)
class SampleRequest:
    """What the user asked the exported graph to do.

    Attributes:
        sigmas: levels evaluated, descending; the closing sigma_min is implied. Empty means one step at sigma_max.
        label: class to bake into the graph; None keeps the `label` input of a class-conditional model.
        batch: N of the exported graph.
        output: "float" (N, C, H, W) in [-1, 1] or "uint8" (N, H, W, C) bytes.
        task: key into `sampling.editing.TASKS`.
        patch: side of the blocks whose means are known, for task "superres" only.
        schedule: how the levels were chosen, in words, for the manifest; changes nothing.
        sampler: "consistency", or "heun" for diffusion beside it; see `sampling.chosen`.
    """

    sigmas: tuple[float, ...] = ()
    label: int | None = None
    batch: int = 1
    output: str = "float"
    task: str = "generate"
    patch: int | None = None
    schedule: str = ""
    sampler: str = "consistency"
