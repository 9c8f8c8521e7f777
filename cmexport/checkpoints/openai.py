"""State dicts of openai/consistency_models: the architecture is read off the names and shapes of the weights.

Works on the released files (`cd_*`, `ct_*`) and on what one's own training writes (`ema_*`, `model*`, `target_model*`).
Names follow `cm/unet.py`: with L residual blocks per level, residual block j of level i is input_blocks.{1+i(L+1)+j},
its downsampler the entry after the last; in the decoder, level u (0 = lowest) holds output_blocks.{u(L+1)} on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cmexport.checkpoints.openai_flags import check_flags, check_multipliers, order_from_flags, size_from_attention
from cmexport.checkpoints.reading import strict_weights
from cmexport.checkpoints.settings import Default, Settings
from cmexport.checkpoints.sizes import space_of
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import Setting
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.networks.meta import on_meta

ANCHOR = "input_blocks.0.0.weight"
# Image sizes of the released models by number of resolution levels (cm/script_util.py: 64 px has 4, 256 px has 6).
_SIZE_BY_LEVELS = {1: 8, 2: 16, 3: 32, 4: 64, 5: 128, 6: 256, 7: 512}


@dataclass(frozen=True)
class AdmShape:
    """What names and shapes alone say about an ADM UNet; see `AdmUnetConfig` for the fields."""

    model_channels: int
    channel_mult: tuple[int | float, ...]
    num_res_blocks: int
    attention_downsampling: tuple[int, ...]
    in_channels: int
    out_channels: int
    num_classes: int | None
    scalar_label: bool
    use_scale_shift_norm: bool
    resblock_updown: bool
    conv_resample: bool
    attention_widths: tuple[int, ...]
    qkv_rank: int


def infer_shape(path: Path, shapes: Mapping[str, torch.Size]) -> AdmShape:
    """Infer the architecture from the shapes of the weights, by name.

    Raises:
        CheckpointError: the names don't describe an ADM UNet.
    """
    try:
        return _infer(shapes)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: looks like an OpenAI UNet, but its weights don't fit together ({error})"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _infer(shapes: Mapping[str, torch.Size]) -> AdmShape:
    inputs = _indices(shapes, r"input_blocks\.(\d+)\.")
    outputs = _indices(shapes, r"output_blocks\.(\d+)\.")
    up_blocks = _indices(shapes, r"output_blocks\.(\d+)\.[12]\.in_layers\.0\.weight$")
    up_convs = _indices(shapes, r"output_blocks\.(\d+)\.[12]\.conv\.weight$")
    gaps = sorted(set(range(max(inputs) + 1)) - set(inputs))
    if up_blocks:
        per_level = up_blocks[0] + 1
    elif up_convs:
        per_level = up_convs[0] + 1
    elif gaps:  # Pooling has no weights: the first missing index is the first downsampler.
        per_level = gaps[0]
    else:
        per_level = len(outputs)
    levels, left = divmod(len(outputs), per_level)
    if left or per_level < 2 or levels < 1:
        raise ValueError(f"{len(outputs)} output blocks don't divide into levels of {per_level}: weights are missing")

    base = shapes["time_embed.0.weight"][1]
    multipliers: list[int | float] = []
    attention = []
    for level in range(levels):
        first = 1 + level * per_level
        width = shapes[f"input_blocks.{first}.0.out_layers.3.weight"][0]
        # OpenAI's networks for 512 pixels begin at half the base width. What is no simple fraction is no multiplier.
        if 8 * width % base:
            raise ValueError(f"level {level} is {width} wide, which is no simple multiple of the base width {base}")
        multipliers.append(width / base if width % base else width // base)
        if f"input_blocks.{first}.1.qkv.weight" in shapes:
            attention.append(2**level)
    embedding_rows = shapes["input_blocks.1.0.emb_layers.1.weight"][0]
    first_width = int(multipliers[0] * base)
    if embedding_rows not in (first_width, 2 * first_width):
        raise ValueError(f"the first block's embedding has {embedding_rows} rows for {first_width} channels")
    middle = shapes["middle_block.1.qkv.weight"]
    label = shapes.get("label_emb.weight")
    return AdmShape(
        model_channels=base,
        channel_mult=tuple(multipliers),
        num_res_blocks=per_level - 1,
        attention_downsampling=tuple(attention),
        in_channels=shapes[ANCHOR][1],
        out_channels=shapes["out.2.weight"][0],
        num_classes=None if label is None else label[0],
        scalar_label="label_emb.0.weight" in shapes,
        use_scale_shift_norm=embedding_rows == 2 * first_width,
        resblock_updown=bool(up_blocks) or levels == 1,
        conv_resample=not gaps,
        attention_widths=tuple(
            sorted({shape[1] for key, shape in shapes.items() if key.endswith(".qkv.weight") and len(shape) > 1})
        ),
        qkv_rank=len(middle),
    )


def _indices(shapes: Mapping[str, torch.Size], pattern: str) -> list[int]:
    compiled = re.compile(pattern)
    # Six digits would already be more blocks than any file can hold.
    found = sorted({int(m[1]) for key in shapes if (m := compiled.match(key)) and len(m[1]) < 6})
    if not found and "conv" not in pattern and "in_layers" not in pattern:
        raise ValueError(f"no weights named {pattern.split('.', maxsplit=1)[0]}".replace("\\", ""))
    return found


def resolve_config(path: Path, shape: AdmShape, settings: Settings) -> AdmUnetConfig:
    """Complete the inferred shape with what weights can't tell: head layout, qkv order, image size, groups.

    Raises:
        CheckpointError: the network is none that cmexport can sample from.
        UsageError: `--set` contradicts the weights.
    """
    if shape.out_channels == 2 * shape.in_channels:
        raise CheckpointError(f"{path}: predicts a variance too (learn_sigma), which consistency models never do")
    if shape.out_channels != shape.in_channels:
        raise CheckpointError(f"{path}: takes {shape.in_channels} channels and returns {shape.out_channels}")
    levels = len(shape.channel_mult)
    guess = _SIZE_BY_LEVELS.get(levels, 2 ** (levels + 2))
    fallback = size_from_attention(shape, settings) or Default(
        guess, f"guess from {levels} resolution levels", ambiguous=True
    )
    image_size = settings.choose("image_size", fallback)
    space_of(path, shape.in_channels, image_size, 2 ** (levels - 1))
    for name in ("in_channels", "out_channels", "model_channels"):
        settings.inferred(name, getattr(shape, name))
    check_multipliers(shape, settings)
    settings.inferred("num_res_blocks", shape.num_res_blocks)
    settings.inferred("attention_downsampling", shape.attention_downsampling)
    if shape.num_classes is not None or "num_classes" in {**settings.sidecar, **settings.overrides}:
        settings.inferred("num_classes", shape.num_classes)
    check_flags(shape, image_size, settings)
    settings.inferred("use_scale_shift_norm", shape.use_scale_shift_norm)
    for name in ("resblock_updown", "conv_resample"):
        # A network of one level resamples nothing: any flag is right.
        if levels == 1 and settings.said(name) is not None:
            settings.noted(name)
        else:
            settings.inferred(name, getattr(shape, name))
    heads = _resolve_heads(shape, settings)
    order_default = (
        # guided-diffusion stores qkv as a 1-d convolution and, unless told otherwise, head by head.
        order_from_flags(settings)
        or Default("head_major", "default of guided-diffusion (qkv of rank 3)", ambiguous=True)
        if shape.qkv_rank == 3
        else Default("thirds", "default of openai/consistency_models", ambiguous=True)
    )
    qkv_order = settings.choose("qkv_order", order_default)
    groups = settings.choose("groups", Default(32, "default of openai/consistency_models"))
    widths = {int(shape.model_channels * mult) for mult in shape.channel_mult}
    uneven = sorted(width for width in widths if width % groups)
    if uneven:
        raise UsageError(f"{path}: {uneven[0]} channels don't divide into {groups} groups; --set groups=N")
    return AdmUnetConfig(
        image_size=image_size,
        model_channels=shape.model_channels,
        channel_mult=shape.channel_mult,
        num_res_blocks=shape.num_res_blocks,
        attention_downsampling=shape.attention_downsampling,
        in_channels=shape.in_channels,
        out_channels=shape.out_channels,
        num_classes=shape.num_classes,
        scalar_label=shape.scalar_label,
        num_head_channels=heads.width,
        num_heads=heads.count,
        qkv_order=qkv_order,
        use_scale_shift_norm=shape.use_scale_shift_norm,
        resblock_updown=shape.resblock_updown,
        conv_resample=shape.conv_resample,
        groups=groups,
        num_heads_upsample=heads.count_up,
    )


@dataclass(frozen=True)
class _Heads:
    """Width of one head, or -1; heads of each block where it is -1, on the way down and (-1: the same) up."""

    width: int
    count: int
    count_up: int = -1


def _resolve_heads(shape: AdmShape, settings: Settings) -> _Heads:
    """Decide on heads as cm/unet.py does: a `num_head_channels` other than -1 wins, else `num_heads` decides."""
    by_count, by_width, up = map(settings.said, ("num_heads", "num_head_channels", "num_heads_upsample"))
    # A number on the command line beats a width in the file beside the weights, or in their own.
    if "num_heads" in settings.overrides and "num_head_channels" not in settings.overrides:
        by_width = None
    unused = [name for name in ("num_heads", "num_heads_upsample") if settings.said(name) not in (None, -1)]
    if by_width not in (None, -1):
        width = settings.choose("num_head_channels", Default(64, ""))
        _check_heads(shape, "num_head_channels", width)
        for name in unused:
            settings.noted(name, f"{name} {settings.said(name)}: not used, num_head_channels {width} wins")
        if up == -1:
            settings.noted("num_heads_upsample")
        return _Heads(width, AdmUnetConfig.num_heads)
    if by_count is not None or by_width == -1 or up not in (None, -1):
        fallback = Default(4, "default of openai/consistency_models", ambiguous=True)
        count = settings.choose("num_heads", fallback)
        if by_width == -1:
            settings.noted("num_head_channels")
        else:
            settings.resolved["num_head_channels"] = Setting("num_head_channels", -1, "not used: num_heads decides")
        _check_heads(shape, "num_heads", count)
        if up is None:
            return _Heads(-1, count)
        settings.noted("num_heads_upsample")
        assert isinstance(up, int)
        if up != -1:
            _check_heads(shape, "num_heads_upsample", up)
        return _Heads(-1, count, -1 if up == count else up)
    if up == -1:
        settings.noted("num_heads_upsample")
    if settings.by_name("num_head_channels") is None:
        # launch.sh trains every released model with width 64; the code's own default is 4 heads of any width.
        if all(width % 64 == 0 for width in shape.attention_widths):
            fallback = Default(64, "width of the released models", ambiguous=True)
        else:
            count = 4 if all(width % 4 == 0 for width in shape.attention_widths) else 1
            settings.choose("num_heads", Default(count, "guess: a width of 64 does not divide", ambiguous=True))
            settings.choose("num_head_channels", Default(-1, "not used: num_heads decides"))
            return _Heads(-1, count)
    else:
        fallback = Default(64, "width of the released models")
    width = settings.choose("num_head_channels", fallback)
    _check_heads(shape, "num_head_channels", width)
    return _Heads(width, AdmUnetConfig.num_heads)


def _check_heads(shape: AdmShape, name: str, divisor: int) -> None:
    uneven = [width for width in shape.attention_widths if width % divisor]
    if uneven:
        raise UsageError(f"{name} {divisor} does not divide an attention block of {uneven[0]} channels")


def build_adm_unet(
    path: Path, config: AdmUnetConfig, tensors: Mapping[str, Tensor], kind: type[AdmUnet] = AdmUnet
) -> AdmUnet:
    """Build the network around the weights, without a second copy of them in memory; `kind` may be `CtmUnet`.

    Raises:
        CheckpointError: names, shapes or values are wrong.
    """
    # On the meta device nothing is allocated, and assign=True then takes the tensors that were read as weights.
    network = on_meta(lambda: kind(config))
    expected = {key: value.shape for key, value in network.state_dict().items()}
    squeezed = {
        # 1-d convolutions of guided-diffusion: (3C, C, 1) is (3C, C, 1, 1).
        key: value.unsqueeze(-1) if value.dim() == 3 and key.endswith(("qkv.weight", "proj_out.weight")) else value
        for key, value in tensors.items()
    }
    network.load_state_dict(strict_weights(path, squeezed, expected), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def architecture(config: AdmUnetConfig, name: str = "adm_unet") -> dict[str, object]:
    """Name and arguments of the network, for the manifest."""
    facts = asdict(config)
    if config.num_heads_upsample == -1:
        del facts["num_heads_upsample"]
    if not config.scalar_label:
        del facts["scalar_label"]
    return {"name": name, **facts}
