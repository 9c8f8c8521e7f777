"""Flags of openai/consistency_models' scripts, given as `--set` or in `cmexport.toml`: what each means for a file.

The rules are those of `cm/script_util.py` (`create_model`), `cm/unet.py` and `scripts/image_sample.py`: what decides
there decides here, what is not used there is not used here, and a flag that the weights contradict is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from cmexport.checkpoints.settings import Default, Settings
from cmexport.errors import UsageError

# create_model: channel_mult "" stands for these, by image_size.
_MULTIPLIERS: Mapping[int, tuple[int | float, ...]] = MappingProxyType(
    {512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
)


class Shape(Protocol):
    """What the flags are checked against; see `openai.AdmShape`."""

    @property
    def channel_mult(self) -> tuple[int | float, ...]:
        """Width multipliers by level."""

    @property
    def attention_downsampling(self) -> tuple[int, ...]:
        """Downsampling factors with attention."""

    @property
    def model_channels(self) -> int:
        """Base width of the network, channels."""

    @property
    def num_classes(self) -> int | None:
        """Rows of the label embedding."""

    @property
    def qkv_rank(self) -> int:
        """4 in openai/consistency_models, 3 in guided-diffusion."""


def size_from_attention(shape: Shape, settings: Settings) -> Default | None:
    """Find the size at which `attention_resolutions` means the weights' own downsampling factors, if it is just one."""
    resolutions = settings.said("attention_resolutions")
    if not isinstance(resolutions, tuple):
        return None
    sizes = {int(pixels) * factor for pixels in resolutions for factor in shape.attention_downsampling}
    fitting = sorted(s for s in sizes if _downsampling(s, resolutions, shape) == set(shape.attention_downsampling))
    return Default(fitting[0], "attention_resolutions and the weights") if len(fitting) == 1 else None


def check_flags(shape: Shape, image_size: int | tuple[int, int], settings: Settings) -> None:
    """Compare the flags that describe the network with its weights; record all that are not used.

    Raises:
        UsageError: a flag contradicts the weights.
    """
    known = {
        "num_channels": shape.model_channels,
        "class_cond": shape.num_classes is not None,
        "learn_sigma": False,
    }
    for name, value in known.items():
        if settings.said(name) is not None:
            settings.inferred(name, value)
    side = image_size if isinstance(image_size, int) else image_size[0]
    resolutions = settings.said("attention_resolutions")
    if isinstance(resolutions, tuple):
        wanted = _downsampling(side, resolutions, shape)
        if wanted != set(shape.attention_downsampling):
            raise UsageError(
                f"attention_resolutions={','.join(map(str, resolutions))} at image_size {side} means attention at "
                f"downsampling {_listed(wanted)}; the weights have it at {_listed(shape.attention_downsampling)}"
            )
        settings.noted("attention_resolutions")
    if settings.said("use_fp16") is not None:
        used = "use_fp16: not used, weights are read as float32; --fp16 is the artefact's precision"
        settings.noted("use_fp16", used if settings.said("use_fp16") else "")
    for name in ("use_checkpoint", "dropout", "weight_schedule"):
        if settings.said(name) is not None:
            settings.noted(name)
    if settings.said("use_new_attention_order") is not None and shape.qkv_rank != 3:
        ignored = "use_new_attention_order: not used, as in openai/consistency_models; --set qkv_order decides"
        settings.noted("use_new_attention_order", ignored if settings.said("use_new_attention_order") else "")


def check_multipliers(shape: Shape, settings: Settings) -> None:
    """Record `channel_mult`; empty, it stands for OpenAI's default at the `image_size` that was given.

    Raises:
        UsageError: it contradicts the weights.
    """
    if settings.said("channel_mult") != ():
        settings.inferred("channel_mult", shape.channel_mult)
        return
    size = settings.said("image_size")
    standard = _MULTIPLIERS.get(size) if isinstance(size, int) else None
    if standard is not None and standard != shape.channel_mult:
        raise UsageError(
            f'channel_mult "" means {",".join(map(str, standard))} at image_size {size} in OpenAI\'s code, but the '
            f"weights say {','.join(map(str, shape.channel_mult))}; one of the two flags is another model's"
        )
    settings.noted("channel_mult", value=shape.channel_mult)


def order_from_flags(settings: Settings) -> Default | None:
    """Read what `use_new_attention_order` says of guided-diffusion's qkv (rank 3): q, k, v apart, or head by head."""
    said = settings.said("use_new_attention_order")
    if said is None:
        return None
    settings.noted("use_new_attention_order")
    return Default("thirds" if said else "head_major", "use_new_attention_order")


def precond_from_flags(settings: Settings) -> dict[str, Default]:
    """`training_mode`: OpenAI's sampling script takes the boundary form where it holds the word consistency."""
    mode = settings.said("training_mode")
    if mode is None:
        return {}
    settings.noted("training_mode")
    return {"precond": Default("cm" if "consistency" in str(mode) else "edm", "training_mode")}


def _downsampling(side: int, resolutions: Sequence[int | float], shape: Shape) -> set[int]:
    """create_model: image_size // resolution, of which only factors that occur matter."""
    factors = {side // int(pixels) for pixels in resolutions}
    return factors & {2**level for level in range(len(shape.channel_mult))}


def _listed(factors: Sequence[int] | set[int]) -> str:
    return ",".join(map(str, sorted(factors))) or "none"
