"""Every constant of a model, each with its origin: the weights, a named default, a config file, or `--set`.

A plain state dict stores none of the numbers that sampling needs. This file is the one place that decides them, and it
records every decision as a `Setting`, so that `inspect` and the manifest can show what was assumed.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmexport.alphas import KINDS, PREDICTIONS
from cmexport.checkpoints.lora.choosing import lora_choices, lora_text
from cmexport.checkpoints.sidecar import SIDECAR_NAME
from cmexport.checkpoints.sizes import parse_size
from cmexport.errors import UsageError
from cmexport.model import NoiseRange, Setting, SettingValue
from cmexport.naming import model_name
from cmexport.networks.adm_unet import QKV_ORDERS
from cmexport.sampling.preconditioning import C_NOISE, PRECONDITIONINGS
from cmexport.sampling.schedules import RENOISE_RULES

EMBEDDED = "options in the checkpoint"
"""The origin of a value that lies in the weights' own file."""


@dataclass(frozen=True)
class Field:
    """One name `--set` accepts: how its text is read, and what it means."""

    parse: Callable[[str], SettingValue]
    meaning: str


def _number(low: float, high: float = math.inf) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not (low < value <= high and math.isfinite(value)):
            raise ValueError(f"must be a finite number above {low:g}")
        return value

    return parse


def _sigma_min(text: str) -> float:
    value = float(text)
    if not (0 <= value < math.inf):
        raise ValueError("must be a finite number, 0 or more")
    return value


def _integer(low: int, high: int = 1_000_000, also: tuple[int, ...] = ()) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high and value not in also:
            raise ValueError(f"must be a whole number of at least {low}")
        return value

    return parse


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("true", "yes", "on", "1"):
        return True
    if lowered in ("false", "no", "off", "0"):
        return False
    raise ValueError("must be true or false")


def _choice(options: Iterable[str]) -> Callable[[str], str]:
    allowed = tuple(options)

    def parse(text: str) -> str:
        if text.strip() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text.strip()

    return parse


def _integers(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.replace(" ", "").strip("()[]").split(",") if part)
    if any(value < 1 for value in values):
        raise ValueError("must be whole numbers of at least 1, separated by commas")
    return values


def _multipliers(text: str) -> tuple[int | float, ...]:
    """Whole numbers stay whole; OpenAI's 512-pixel network begins with 0.5. Empty: nothing said, as OpenAI's flag."""
    values = tuple(float(part) for part in text.replace(" ", "").strip("()[]").split(",") if part)
    if not all(0 < value < 1e6 for value in values):
        raise ValueError("must be numbers above 0, separated by commas")
    return tuple(int(value) if value == int(value) else value for value in values)


def _ends(text: str) -> tuple[int | float, ...]:
    low, high = (float(part) for part in text.replace(" ", "").strip("()[]").split(","))
    if not -math.inf < low < high < math.inf:
        raise ValueError("must be two numbers, the smaller first: 1,100")
    return tuple(int(end) if end.is_integer() else end for end in (low, high))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError("must lie between 0 and 1")
    return value


def _decoder(text: str) -> str:
    kind, _, folder = text.strip().partition(":")
    if kind == "tiny" and folder:
        # Recorded, and read again from wherever the artefact is verified.
        return f"tiny:{Path(folder).expanduser().absolute()}"
    if text.strip() != "kl":
        raise ValueError("must be tiny:FOLDER, an AutoencoderTiny, or kl, the pipeline's own")
    return "kl"


def _tokenizer(text: str) -> str:
    # Recorded, and read again from wherever the artefact is verified.
    return text.strip() if text.strip() == "clip" else str(Path(text.strip()).expanduser().absolute())


def _loras(text: str) -> str:
    """Absolute paths and all scales, so that what is recorded means the same anywhere."""
    return lora_text(lora_choices(text))


def _chaining(text: str) -> str:
    """As Consistency Policy's `chaining_times`: D and times as they are, or C and bins."""
    mode, *times = text.replace(" ", "").strip("[]").split(",")
    if mode.strip("'\"") not in ("C", "D") or not all(_finite(time) > 0 for time in times):
        raise ValueError("must be D or C, then numbers above 0: D,27,54")
    return ",".join([mode.strip("'\""), *times])


def _text(text: str) -> str:
    return text.strip()


KNOWN_SETTINGS: Mapping[str, Field] = MappingProxyType(
    {
        "image_size": Field(parse_size, "height and width of the pictures, pixels: 32, or 16x32"),
        "in_channels": Field(_integer(1), "picture channels"),
        "out_channels": Field(_integer(1), "channels the network returns"),
        "model_channels": Field(_integer(1), "base width of the network"),
        "channel_mult": Field(_multipliers, "width multiplier of each resolution, e.g. 1,2,3,4"),
        "num_res_blocks": Field(_integer(1), "residual blocks per resolution"),
        "attention_downsampling": Field(_integers, "downsampling factors at which attention sits, e.g. 2,4,8"),
        "num_classes": Field(_integer(1), "classes of a conditional model"),
        "label_range": Field(_ends, "between which numbers a continuous condition lies for people, e.g. 1,100"),
        "difficulty": Field(_finite, "value of a continuous condition, to bake in"),
        "num_heads": Field(_integer(1), "attention heads per block, whatever its width"),
        "num_head_channels": Field(_integer(1, also=(-1,)), "width of one attention head; -1: use num_heads"),
        "qkv_order": Field(_choice(QKV_ORDERS), "order of the rows of qkv: thirds (OpenAI) or head_major"),
        "use_scale_shift_norm": Field(_flag, "embedding scales and shifts the norm instead of being added"),
        "resblock_updown": Field(_flag, "resampling inside residual blocks"),
        "conv_resample": Field(_flag, "plain resampling with a convolution"),
        "groups": Field(_integer(1), "groups of GroupNorm"),
        "precond": Field(_choice(PRECONDITIONINGS), "c_skip, c_out and c_in as functions of sigma"),
        "c_noise": Field(_choice(C_NOISE), "what the time embedding receives"),
        "sigma_data": Field(_number(0), "standard deviation of the training pictures"),
        "sigma_min": Field(_sigma_min, "smallest noise level, where f is the identity"),
        "sigma_max": Field(_number(0), "largest noise level, where sampling starts"),
        "rho": Field(_number(0), "curvature of the noise levels"),
        "levels": Field(_integer(2), "N, the number of noise levels that timesteps count"),
        "renoise": Field(_choice(RENOISE_RULES), "how noise is added between steps"),
        "clamp": Field(_flag, "clamp every step's picture to [-1, 1]"),
        "decoder": Field(_decoder, "what decodes latents"),
        "clip_skip": Field(_integer(0), "last layers of a text encoder that are left out, as diffusers counts them"),
        "chaining": Field(_chaining, "at which times a policy chains: D,27,54 as they are, C,27,54 its bins"),
        "lora": Field(_loras, "LoRA files to merge, with their scales"),
        "scheduler": Field(_choice(KINDS.values()), "the rule of few steps that a latent model was made for"),
        "prediction": Field(_choice(PREDICTIONS), "what a latent model's network gives: the noise, x0, or v"),
        "tokenizer": Field(_tokenizer, "a folder with the tokenizer of a latent model in one file; clip: CLIP's own"),
    }
)

# Flags of openai/consistency_models' scripts that are not settings here, so that a command line pasted whole is read;
# `openai_flags` says what each means for a file.
OPENAI_FLAGS: Mapping[str, Field] = MappingProxyType(
    {
        "num_channels": Field(_integer(1), "OpenAI's name of model_channels"),
        "attention_resolutions": Field(_integers, "picture sizes at which attention sits, pixels, e.g. 32,16,8"),
        "num_heads_upsample": Field(_integer(1, also=(-1,)), "attention heads on the way up; -1: num_heads"),
        "class_cond": Field(_flag, "whether the network takes labels"),
        "learn_sigma": Field(_flag, "whether the network predicts a variance too"),
        "use_fp16": Field(_flag, "half precision in OpenAI's own code"),
        "use_checkpoint": Field(_flag, "recomputation in training"),
        "use_new_attention_order": Field(_flag, "order of qkv in guided-diffusion"),
        "dropout": Field(_share, "dropout in training"),
        "weight_schedule": Field(_text, "weights of the training loss"),
        "training_mode": Field(_text, "consistency_distillation, consistency_training or edm"),
    }
)


@dataclass(frozen=True)
class NamedDefaults:
    """Constants that a released file's name stands for; `pattern` matches the lower-case name without suffix.

    `guess` marks names that anyone's file may have by chance.
    """

    label: str
    pattern: re.Pattern[str]
    values: Mapping[str, SettingValue]
    guess: bool = False


def _named(label: str, pattern: str, *, guess: bool = False, **values: SettingValue) -> NamedDefaults:
    return NamedDefaults(label, re.compile(pattern), MappingProxyType(values), guess)


# openai/consistency_models README and scripts/launch.sh. Earlier rows win, field by field.
NAMED_DEFAULTS: tuple[NamedDefaults, ...] = (
    _named("cm_cifar10*", r"^cm_cifar10", image_size=32, num_head_channels=64, qkv_order="thirds", levels=18),
    _named("cd_*", r"^cd_", levels=40, precond="cm", qkv_order="thirds"),
    _named("ct_imagenet64*", r"^ct_imagenet64", levels=201, precond="cm", qkv_order="thirds"),
    _named("ct_bedroom256*, ct_cat256*", r"^ct_(bedroom|cat)256", levels=151, precond="cm", qkv_order="thirds"),
    _named("edm_*", r"^edm_", levels=40, precond="edm", qkv_order="thirds"),
    _named("*imagenet64*", r"imagenet_?64", image_size=64, num_head_channels=64),
    _named("*bedroom256*, *cat256*", r"(bedroom|cat)_?256", image_size=256, num_head_channels=64),
    _named("*cifar*", r"cifar", image_size=32),
    _named("*256*", r"(?<!\d)256(?!\d)", guess=True, image_size=256),
    # Latent models that were distilled for few steps: a file of theirs alone does not say so.
    _named("*lcm*, *dmd*", r"lcm|dmd", guess=True, scheduler="lcm"),
    _named("*tcd*, *hyper*", r"tcd|hyper", guess=True, scheduler="tcd"),
    _named("*turbo*", r"turbo", guess=True, scheduler="euler_ancestral"),
    _named("*lightning*", r"lightning", guess=True, scheduler="euler"),
)


@dataclass(frozen=True)
class Default:
    """A value with its origin, used when `--set` says nothing; `ambiguous` marks a guess."""

    value: SettingValue
    origin: str
    ambiguous: bool = False


def parse_overrides(overrides: Mapping[str, str], by: str = "--set ") -> dict[str, SettingValue]:
    """Read the texts of `--set`, or of another source that `by` names in messages.

    Raises:
        UsageError: an unknown field (with the nearest known one) or a value that does not fit it.
    """
    parsed: dict[str, SettingValue] = {}
    for name, text in overrides.items():
        known = KNOWN_SETTINGS.get(name) or OPENAI_FLAGS.get(name)
        if known is None:
            near = difflib.get_close_matches(name, KNOWN_SETTINGS, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(KNOWN_SETTINGS)}"
            raise UsageError(f"{by}{name}={text}: there is no field '{name}'{hint}")
        try:
            parsed[name] = known.parse(text)
        except ValueError as error:
            reason = str(error) if str(error).startswith("must") else f"'{text}' is no value for it"
            raise UsageError(f"{by}{name}={text}: {name} ({known.meaning}) {reason}") from error
    return parsed


@dataclass
class Settings:
    """Collects resolved constants; the only mutable thing of a load, thrown away at its end.

    Attributes:
        overrides: parsed `--set` values.
        stem: lower-case file name without suffix, matched against `NAMED_DEFAULTS`.
        sidecar: parsed values of a file beside the weights; `--set` beats them, they beat everything else.
        embedded: parsed values that lie in the weights' own file; all of the above beat them, they beat its name.
        resolved: settings so far, by name, in order.
    """

    overrides: Mapping[str, SettingValue]
    stem: str = ""
    sidecar: Mapping[str, SettingValue] = field(default_factory=dict)
    embedded: Mapping[str, SettingValue] = field(default_factory=dict)
    resolved: dict[str, Setting] = field(default_factory=dict)

    def inferred(self, name: str, value: SettingValue, origin: str = "weights") -> Any:
        """Record what the weights say.

        Raises:
            UsageError: `--set` contradicts it.
        """
        for said, by in ((self.overrides, "--set "), (self.sidecar, SIDECAR_NAME + ": ")):
            if name in said and said[name] != value:
                raise UsageError(
                    f"{by}{name}={Setting(name, said[name], '').text} contradicts the {origin}, which say "
                    f"{Setting(name, value, '').text}; leave it out"
                )
        self.resolved[name] = Setting(name, value, origin)
        return value

    def choose(self, name: str, fallback: Default, *preferred: Default) -> Any:
        """Decide what the weights can't tell: `--set`, then `preferred`, then the file's name, then `fallback`."""
        if name in self.overrides:
            decided = Default(self.overrides[name], f"--set {name}")
        elif name in self.sidecar:
            decided = Default(self.sidecar[name], SIDECAR_NAME)
        elif name in self.embedded:
            decided = Default(self.embedded[name], EMBEDDED)
        elif preferred:
            decided = preferred[0]
        else:
            decided = self.by_name(name) or fallback
        self.resolved[name] = Setting(name, decided.value, decided.origin, decided.ambiguous)
        return decided.value

    def said(self, name: str) -> SettingValue:
        """Look up a field in `--set`, else the sidecar, else the checkpoint's own options; None where none has it."""
        return self.overrides.get(name, self.sidecar.get(name, self.embedded.get(name)))

    def noted(self, name: str, remark: str = "", value: SettingValue = None) -> None:
        """Record a field that was said and decides nothing; `remark` tells the user why."""
        origin = f"--set {name}" if name in self.overrides else SIDECAR_NAME if name in self.sidecar else EMBEDDED
        self.resolved[name] = Setting(name, self.said(name) if value is None else value, origin, remark=remark)

    def by_name(self, name: str) -> Default | None:
        """Return what the file's name says about a field."""
        for row in NAMED_DEFAULTS:
            if name in row.values and row.pattern.search(self.stem):
                return Default(row.values[name], f"default of {row.label}", row.guess)
        return None

    def finish(self) -> tuple[Setting, ...]:
        """All settings in the order they were resolved.

        Raises:
            UsageError: a `--set` field has no meaning for this model.
        """
        unused = [name for name in self.overrides if name not in self.resolved]
        if unused:
            raise UsageError(f"--set {unused[0]}: this model has no such constant")
        if unused := [name for name in self.sidecar if name not in self.resolved]:
            raise UsageError(f"{SIDECAR_NAME}: {unused[0]}: this model has no such constant")
        return tuple(self.resolved.values())


@dataclass(frozen=True)
class Family:
    """Default constants of one lineage of models: what holds when neither file nor user says otherwise."""

    label: str
    precond: str = "cm"
    c_noise: str = "250ln"
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    levels: int = 40
    renoise: str = "cm"
    clamp: bool = True


OPENAI = Family("openai/consistency_models")
# Jumping all the way to sigma_min before each renoising is CTM's gamma = 1, whose noise is sqrt(t^2 - sigma_min^2).
CTM = Family("sony/ctm", precond="ctm", levels=18)


# Every jump goes to sigma_min, and its add_noise adds t z.
CONSISTENCY_POLICY = Family("Consistency Policy", precond="ctm_cm", sigma_min=0.02, levels=80, renoise="ect")


@dataclass(frozen=True)
class SamplingConstants:
    """The resolved half of a `ConsistencyModel` that is not the network."""

    preconditioning: str
    c_noise: str
    noise: NoiseRange
    renoise: str
    clamp: bool


def resolve_sampling(
    settings: Settings, family: Family, preferred: Mapping[str, Default] = MappingProxyType({})
) -> SamplingConstants:
    """Resolve preconditioning, noise range, renoise rule and clamp.

    Args:
        settings: collects the decisions.
        family: fallback values.
        preferred: values that a config file or the weights state, which beat the file's name.

    Raises:
        UsageError: sigma_min is not below sigma_max.
    """

    def pick(name: str, *, ambiguous: bool = False) -> Any:
        fallback = Default(getattr(family, name), f"default of {family.label}", ambiguous)
        return settings.choose(name, fallback, *([preferred[name]] if name in preferred else []))

    precond, c_noise = pick("precond"), pick("c_noise")
    noise = NoiseRange(
        sigma_data=pick("sigma_data"),
        sigma_min=pick("sigma_min"),
        sigma_max=pick("sigma_max"),
        rho=pick("rho"),
        # Files of one's own training may have used any N. It only names schedules: one step never sees it.
        levels=pick("levels", ambiguous=True),
    )
    if noise.sigma_min >= noise.sigma_max:
        raise UsageError(f"sigma_min {noise.sigma_min:g} must lie below sigma_max {noise.sigma_max:g}")
    return SamplingConstants(precond, c_noise, noise, pick("renoise"), pick("clamp"))


def settings_for(
    path: Path, overrides: Mapping[str, str], sidecar: Mapping[str, str] = MappingProxyType({})
) -> Settings:
    """Start resolving for a file.

    Raises:
        UsageError: see `parse_overrides`.
    """
    return Settings(parse_overrides(overrides), model_name(path).lower(), parse_overrides(sidecar, f"{SIDECAR_NAME}: "))
