"""The nouns that every package shares: what a checkpoint is, once it has been read.

Nothing here knows a file format or a target. A `ConsistencyModel` is a network F plus the six choices that turn it
into f(x, sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x, c_noise(sigma))
(Song et al. 2023, arXiv:2303.01469, eq. 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from cmexport.alphas import AlphaSchedule
from cmexport.naming import model_name
from cmexport.signature import Input, known
from cmexport.tokenizer import Tokenizer

SettingValue = bool | int | float | str | tuple[int | float, ...] | None


LARGE_MODEL = 100_000_000
"""Weights, counted once for each evaluation, from which a picture takes a second or more on a laptop's cores."""

HUGE_MODEL = 800_000_000
"""Weights, counted once for each evaluation, from which every single picture is counted: one step of Stable Diffusion
1.5 takes 6 s at 512x512 on two cores, four take 20."""


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
class Condition:
    """What the network is called with by name, besides a sample and its noise level.

    What an app may feed is the input's law: `Choice` for classes (or a closed list of prompts: what depends on it alone
    is tabulated), `Range` for a difficulty or a guidance scale, `Tokens` for a prompt.

    Attributes:
        name: the network's keyword.
        input: what the graph takes for it, with a batch of 1.
        encode: makes of the input what the network is called with, once for all steps: a text encoder, the embedding
            of a guidance scale. None: the input itself.
        usual: a value that is a constant of the graph unless a request asks for the input; None where there is none.
        after: name of an earlier condition, whose encoding `encode` takes besides: pooling goes on where a text encoder
            stopped.
        unsaid: whether "no prompt" is zeros to the network, and not what `encode` makes of an empty one.
    """

    name: str
    input: Input
    encode: nn.Module | None = None
    usual: float | None = None
    after: str | None = None
    unsaid: bool = False

    def of(self, given: Tensor, earlier: Mapping[str, Tensor] = MappingProxyType({})) -> Tensor:
        """Return what the network is called with; `earlier` is what it is called with for the conditions before."""
        if self.encode is None:
            return given
        encoded: Tensor = self.encode(given) if self.after is None else self.encode(given, earlier[self.after])
        return encoded


def encoded(conditions: Sequence[Condition], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the network is called with, by name, for the inputs in `given`, by theirs."""
    found: dict[str, Tensor] = {}
    for condition in conditions:
        found[condition.name] = condition.of(given[condition.input.name], found)
    return found


def class_labels(classes: int | None) -> tuple[Condition, ...]:
    """Return the condition of networks with class labels 0 .. classes-1; none for those without."""
    return () if classes is None else (Condition("label", known.label(1, classes)),)


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
class Codec:
    """What decodes samples to pictures, where the space that is sampled in is another one.

    Attributes:
        decoder: latents (N, c, h, w) to pictures (N, C, H, W) in [-1, 1], or slightly beyond.
        channels: C of the pictures.
        factor: sides of a picture over those of its latents.
        scale, shift: the decoder takes z / scale + shift, z of about unit variance.
        encoder: pictures to (z / scale + shift); None where it is not there.
    """

    decoder: nn.Module
    channels: int
    factor: int
    scale: float = 1.0
    shift: float = 0.0
    encoder: nn.Module | None = None

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to pictures in [-1, 1]."""
        pictures: Tensor = self.decoder(latents * (1.0 / self.scale) + self.shift)
        return pictures.clamp(-1.0, 1.0)

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode pictures (N, C, H, W) to latents of about unit variance; the mean, where an encoder gives a spread."""
        assert self.encoder is not None
        latents: Tensor = self.encoder(pictures)
        return (latents - self.shift) * self.scale

    def pictures(self, latents: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the pictures of latents (N, c, h, w)."""
        return (latents[0], self.channels, *(self.factor * side for side in latents[2:]))


@dataclass(frozen=True)
class Policy:
    """What a network that plans a robot's actions is besides: its samples are (N, 1, T, D), T actions of D numbers.

    Attributes:
        scale, offset: of the D numbers: samples are y = scale a + offset of actions a in the demonstrations' units.
        chain: levels at which evaluations after the first start, in their order, which need not descend.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    chain: tuple[float, ...] = ()


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
        license: under which the weights are given away; None where nothing says it.
        license_origin: what says it, or what was looked at.
    """

    path: Path
    format: str
    sha256: str
    size_bytes: int
    reference: str = ""
    name: str = ""
    license: str | None = None
    license_origin: str = "not looked for"

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", model_name(self.path))

    @property
    def again(self) -> str:
        """What `load_checkpoint` takes to read the same weights, from any working directory."""
        return self.reference or str(self.path.absolute())


@dataclass(frozen=True)
class LoraLayer:
    """What a LoRA did to one layer.

    Attributes:
        part: "unet", "text_encoder" or "text_encoder_2".
        name: the layer's, in the network.
        rank: of what was added.
        alpha: what scales it, over the rank.
        ratio: Frobenius norm of what was added over that of the weight before; None of a weight that was 0.
    """

    part: str
    name: str
    rank: int
    alpha: float
    ratio: float | None


@dataclass(frozen=True)
class Lora:
    """A file of LoRA weights that was merged into a model's.

    Attributes:
        path: the file.
        sha256: of its bytes.
        size_bytes: of the same.
        scale: factor of all that was added.
        dialect: whose names the file has, in words.
        layers: what it changed.
        dropped: how many layers it had twice, in another spelling too.
    """

    path: Path
    sha256: str
    size_bytes: int
    scale: float
    dialect: str
    layers: tuple[LoraLayer, ...] = ()
    dropped: int = 0


@dataclass(frozen=True)
class ConsistencyModel:
    """A network and everything needed to sample from it.

    Attributes:
        network: F, in eval mode, float32. Called as `network(x, c_noise, **conditions)` with x (N, C, H, W), c_noise
            (1,) float64 and, by name, what `conditions` says: `label` (N,) int64; returns (N, C, H, W).
        architecture: name and keyword arguments of the network, as plain data for the manifest.
        space: where the noise lives: channels, height and width of the pictures, or of their latents.
        preconditioning: key into `sampling.preconditioning.PRECONDITIONINGS`.
        c_noise: key into `sampling.preconditioning.C_NOISE`.
        noise: the trained noise range.
        conditions: what the network is called with besides, in the order of the graph's inputs.
        renoise: key into `sampling.schedules.RENOISE_RULES`.
        clamp: whether every evaluation's picture is clamped to [-1, 1].
        source: the file the weights came from.
        settings: every constant with its origin, in the order `inspect` shows them.
        codec: decodes what is sampled; None where pictures are.
        labels: names of the classes; empty where they are not known.
        schedule: the table of levels and the scheduler of a latent few-step model, which then decide in place of
            `preconditioning`, `c_noise` and `renoise`; None for others.
        tokenizer: makes tokens of prompts, where the model takes some.
        loras: what was merged into its weights, in the order in which it was named.
        policy: of networks that plan actions; None where samples are pictures.
    """

    network: nn.Module
    architecture: Mapping[str, Any]
    space: Space
    preconditioning: str
    c_noise: str
    noise: NoiseRange
    conditions: tuple[Condition, ...]
    renoise: str
    clamp: bool
    source: CheckpointSource
    settings: tuple[Setting, ...] = field(default=())
    codec: Codec | None = None
    labels: tuple[str, ...] = ()
    schedule: AlphaSchedule | None = None
    tokenizer: Tokenizer | None = None
    loras: tuple[Lora, ...] = ()
    policy: Policy | None = None

    @property
    def choice(self) -> Input | None:
        """The input that picks a class, if the model is class-conditional."""
        return next((c.input for c in self.conditions if c.input.count is not None and not c.input.worded), None)

    @property
    def worded(self) -> Condition | None:
        """The condition that a prompt is made into, if the model takes one."""
        return next((c for c in self.conditions if c.input.worded), None)

    @property
    def wordings(self) -> tuple[Condition, ...]:
        """All conditions that a prompt is made into: `worded`, and what is pooled of it."""
        return tuple(c for c in self.conditions if c.input.worded)

    def examples(self, pictures: int) -> dict[str, Tensor]:
        """Return what the network is called with besides, for so many pictures, equal ones."""
        given = {}
        for taken in (condition.input for condition in self.conditions):
            drawn = taken.drawn.draw(taken.picture_shape, torch.Generator().manual_seed(0), 0)
            given[taken.name] = torch.from_numpy(taken.stack([drawn] * pictures))
        with torch.no_grad():
            return encoded(self.conditions, given)

    @property
    def classes(self) -> int | None:
        """Number of classes; None for an unconditional model."""
        return None if self.choice is None else self.choice.count

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules with weights: the network, encoders of conditions, the decoder."""
        encoders = (c.encode for c in self.conditions if c.encode is not None)
        return (self.network, *encoders, *(() if self.codec is None else (self.codec.decoder,)))

    @property
    def parts(self) -> dict[str, int]:
        """Number of weights of each part of a model that has several: text encoders, network, decoder.

        What makes use of several text encoders names them in `parts`. Weights that no prompt needs don't count.
        """
        counts: dict[str, int] = {}

        def count(name: str, module: nn.Module) -> None:
            counts[name] = counts.get(name, 0) + sum(p.numel() for p in module.parameters())

        for encode in (wording.encode for wording in self.wordings):
            if encode is not None:
                several: Mapping[str, nn.Module] = getattr(encode, "parts", {"text_encoder": encode})
                for name, module in several.items():
                    count(name, module)
        count("network", self.network)
        if self.codec is not None:
            count("decoder", self.codec.decoder)
        return counts if len(counts) > 1 else {}

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
        """Number of weights."""
        return sum(p.numel() for module in self.modules for p in module.parameters())


@dataclass(frozen=True)
class SampleRequest:
    """What the user asked the exported graph to do.

    Attributes:
        sigmas: levels evaluated, descending; the closing sigma_min is implied. Empty means one step at sigma_max,
            or what the model's scheduler takes by default.
        label: class to bake into the graph; None keeps the `label` input of a class-conditional model.
        batch: N of the exported graph.
        output: "float" (N, C, H, W) in [-1, 1] or "uint8" (N, H, W, C) bytes.
        task: key into `sampling.editing.TASKS`.
        patch: side of the blocks whose means are known, for task "superres" only.
        schedule: how the levels were chosen, in words, for the manifest; changes nothing.
        sampler: key into `sampling.methods.METHODS`.
        eta: stochasticity of TCD's steps; None: the model's own.
        gamma: of CTM's gamma sampling, 0 (no noise between jumps) to 1; None: 0.5.
        prompt: text to bake into the graph.
        prompts: a closed list of them: the graph takes the number of one.
        condition: "tokens" or "embeddings", what a graph takes that has neither.
        guidance: scale to bake in; None is the model's usual one.
        guidance_input: leave it to the app.
        calibration_prompts: what calibration, sensitivities and verification say to the graph; empty: a packaged list.
        levels_of: by the name of an input of numbers, to how many equally spaced values it is rounded, and tabulated.
        output_transform: key into `sampling.transforms.TRANSFORMS`; None: pictures as they are.
    """

    sigmas: tuple[float, ...] = ()
    label: int | None = None
    batch: int = 1
    output: str = "float"
    task: str = "generate"
    patch: int | None = None
    schedule: str = ""
    sampler: str = "consistency"
    eta: float | None = None
    gamma: float | None = None
    prompt: str | None = None
    prompts: tuple[str, ...] = ()
    condition: str = "tokens"
    guidance: float | None = None
    guidance_input: bool = False
    calibration_prompts: tuple[str, ...] = ()
    levels_of: Mapping[str, int] = field(default_factory=dict, hash=False)
    output_transform: str | None = None
