"""Stable Diffusion in one file at tiny widths: names and shapes as the training code makes them, random weights.

Networks are laid out here as the constructors of CompVis/stable-diffusion (`openaimodel.UNetModel`, `model.Encoder`,
`model.Decoder`) and open_clip lay them out, block by block; nothing of the package is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class UnetSizes:
    """Arguments of `UNetModel`; `depths` and `up_depths` are transformer layers of each block, by level."""

    channels: int = 32
    mults: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    up_depths: tuple[tuple[int, ...], ...] | None = None
    middle: int | None = 1
    context: int = 64
    linear: bool = False
    extra: int = 0
    guided: int = 0
    takes: int = 4


SD15 = UnetSizes()
SD21 = UnetSizes(context=64, linear=True)
SDXL = UnetSizes(mults=(1, 2, 4), depths=(0, 2, 3), middle=3, context=128, linear=True, extra=1600)
# segmind/SSD-1B: fewer layers, another number in each block of the way up, one resnet in the middle.
SSD_1B = UnetSizes(
    mults=(1, 2, 4), depths=(0, 2, 4), up_depths=((4, 4, 5), (2, 1, 1), (0, 0, 0)), middle=-1, linear=True, extra=1600
)
# nota-ai/bk-sdm-tiny, segmind/tiny-sd: one resnet in each level, three levels, no middle.
BK_TINY = UnetSizes(mults=(1, 2, 4), blocks=1, depths=(1, 1, 1), middle=None)


def _linear(name: str, takes: int, gives: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (gives, takes)
    if bias:
        yield f"{name}.bias", (gives,)


def _conv(name: str, takes: int, gives: int, side: int = 3) -> Shapes:
    yield f"{name}.weight", (gives, takes, side, side)
    yield f"{name}.bias", (gives,)


def _norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _resnet(name: str, takes: int, gives: int, time: int) -> Shapes:
    yield from _norm(f"{name}.in_layers.0", takes)
    yield from _conv(f"{name}.in_layers.2", takes, gives)
    yield from _linear(f"{name}.emb_layers.1", time, gives)
    yield from _norm(f"{name}.out_layers.0", gives)
    yield from _conv(f"{name}.out_layers.3", gives, gives)
    if takes != gives:
        yield from _conv(f"{name}.skip_connection", takes, gives, 1)


def _transformer(name: str, width: int, depth: int, sizes: UnetSizes) -> Shapes:
    yield from _norm(f"{name}.norm", width)
    for end in ("proj_in", "proj_out"):
        yield from (_linear(f"{name}.{end}", width, width) if sizes.linear else _conv(f"{name}.{end}", width, width, 1))
    for layer in range(depth):
        block = f"{name}.transformer_blocks.{layer}"
        for attention, context in (("attn1", width), ("attn2", sizes.context)):
            yield from _linear(f"{block}.{attention}.to_q", width, width, bias=False)
            yield from _linear(f"{block}.{attention}.to_k", context, width, bias=False)
            yield from _linear(f"{block}.{attention}.to_v", context, width, bias=False)
            yield from _linear(f"{block}.{attention}.to_out.0", width, width)
        yield from _linear(f"{block}.ff.net.0.proj", width, 8 * width)
        yield from _linear(f"{block}.ff.net.2", 4 * width, width)
        for number in (1, 2, 3):
            yield from _norm(f"{block}.norm{number}", width)


def unet(sizes: UnetSizes) -> Shapes:
    """`UNetModel.__init__`."""
    first = sizes.channels
    time = 4 * first
    yield from _linear("time_embed.0", first, time)
    yield from _linear("time_embed.2", time, time)
    if sizes.guided:
        yield from _linear("time_embed.cond_proj", sizes.guided, first, bias=False)
    if sizes.extra:
        yield from _linear("label_emb.0.0", sizes.extra, time)
        yield from _linear("label_emb.0.2", time, time)
    yield from _conv("input_blocks.0.0", sizes.takes, first)
    width, skips, number = first, [first], 0
    for level, mult in enumerate(sizes.mults):
        for _ in range(sizes.blocks):
            number += 1
            yield from _resnet(f"input_blocks.{number}.0", width, mult * first, time)
            width = mult * first
            if sizes.depths[level]:
                yield from _transformer(f"input_blocks.{number}.1", width, sizes.depths[level], sizes)
            skips.append(width)
        if level < len(sizes.mults) - 1:
            number += 1
            yield from _conv(f"input_blocks.{number}.0.op", width, width)
            skips.append(width)
    if sizes.middle is not None:
        yield from _resnet("middle_block.0", width, width, time)
        if sizes.middle > 0:
            yield from _transformer("middle_block.1", width, sizes.middle, sizes)
            yield from _resnet("middle_block.2", width, width, time)
    number = -1
    for level, mult in reversed(list(enumerate(sizes.mults))):
        for block in range(sizes.blocks + 1):
            number += 1
            yield from _resnet(f"output_blocks.{number}.0", width + skips.pop(), mult * first, time)
            width = mult * first
            depth = sizes.depths[level]
            if sizes.up_depths is not None:
                depth = sizes.up_depths[len(sizes.mults) - 1 - level][block]
            if depth:
                yield from _transformer(f"output_blocks.{number}.1", width, depth, sizes)
            if level and block == sizes.blocks:
                yield from _conv(f"output_blocks.{number}.{2 if depth else 1}.conv", width, width)
    yield from _norm("out.0", first)
    yield from _conv("out.2", first, 4)


def _vae_resnet(name: str, takes: int, gives: int) -> Shapes:
    yield from _norm(f"{name}.norm1", takes)
    yield from _conv(f"{name}.conv1", takes, gives)
    yield from _norm(f"{name}.norm2", gives)
    yield from _conv(f"{name}.conv2", gives, gives)
    if takes != gives:
        yield from _conv(f"{name}.nin_shortcut", takes, gives, 1)


def _vae_middle(side: str, width: int) -> Shapes:
    yield from _vae_resnet(f"{side}.mid.block_1", width, width)
    yield from _norm(f"{side}.mid.attn_1.norm", width)
    for letter in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{side}.mid.attn_1.{letter}", width, width, 1)
    yield from _vae_resnet(f"{side}.mid.block_2", width, width)


def autoencoder(first: int = 32, mults: Sequence[int] = (1, 2, 4, 4), blocks: int = 2) -> Shapes:
    """`Encoder.__init__`, `Decoder.__init__` and the two convolutions of `AutoencoderKL`."""
    yield from _conv("encoder.conv_in", 3, first)
    width = first
    for level, mult in enumerate(mults):
        for block in range(blocks):
            yield from _vae_resnet(f"encoder.down.{level}.block.{block}", width, mult * first)
            width = mult * first
        if level < len(mults) - 1:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    yield from _vae_middle("encoder", width)
    yield from _norm("encoder.norm_out", width)
    yield from _conv("encoder.conv_out", width, 8)
    yield from _conv("decoder.conv_in", 4, width)
    yield from _vae_middle("decoder", width)
    for level, mult in reversed(list(enumerate(mults))):
        for block in range(blocks + 1):
            yield from _vae_resnet(f"decoder.up.{level}.block.{block}", width, mult * first)
            width = mult * first
        if level:
            yield from _conv(f"decoder.up.{level}.upsample.conv", width, width)
    yield from _norm("decoder.norm_out", width)
    yield from _conv("decoder.conv_out", width, 3)
    yield from _conv("quant_conv", 8, 8, 1)
    yield from _conv("post_quant_conv", 4, 4, 1)


def clip(width: int = 64, layers: int = 2, words: int = 49408) -> Shapes:
    """`CLIPTextModel` of transformers 4."""
    yield "text_model.embeddings.token_embedding.weight", (words, width)
    yield "text_model.embeddings.position_embedding.weight", (77, width)
    for number in range(layers):
        layer = f"text_model.encoder.layers.{number}"
        for letter in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{letter}", width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _linear(f"{layer}.mlp.fc1", width, 4 * width)
        yield from _linear(f"{layer}.mlp.fc2", 4 * width, width)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm("text_model.final_layer_norm", width)


def open_clip(width: int = 64, layers: int = 24, words: int = 49408) -> Shapes:
    """The text side of open_clip's `CLIP`."""
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    yield "token_embedding.weight", (words, width)
    for number in range(layers):
        block = f"transformer.resblocks.{number}"
        yield from _norm(f"{block}.ln_1", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{block}.attn.out_proj", width, width)
        yield from _norm(f"{block}.ln_2", width)
        yield from _linear(f"{block}.mlp.c_fc", width, 4 * width)
        yield from _linear(f"{block}.mlp.c_proj", 4 * width, width)
    yield from _norm("ln_final", width)
    yield "logit_scale", ()


def filled(shapes: Shapes, prefix: str = "", seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a size that keeps what flows through them near one."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes:
        tensor = torch.randn(shape, generator=generator)
        if len(shape) > 1 and "embedding" not in name:
            tensor /= math.sqrt(math.prod(shape[1:]))
        elif len(shape) == 1:
            tensor = 0.1 * tensor + float(name.endswith("weight"))
        made[prefix + name] = tensor
    return made


def scheduler_buffers() -> dict[str, Tensor]:
    """What `DDPM.register_schedule` leaves in a file: some of its tables."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0)
    return {"betas": betas.float(), "alphas_cumprod": alphas.float(), "sqrt_recipm1_alphas_cumprod": alphas.float()}


def checkpoint(
    family: str = "sd15", sizes: UnetSizes | None = None, words: int = 49408, mults: Sequence[int] = (1, 2, 4, 4)
) -> dict[str, Tensor]:
    """A whole file: "sd15", "sd21" or "sdxl"; `words` of the text encoders, `mults` of the autoencoder."""
    usual = {"sd15": SD15, "sd21": SD21, "sdxl": SDXL}[family]
    state = filled(unet(sizes or usual), "model.diffusion_model.", 1)
    vae = filled(autoencoder(mults=mults), "first_stage_model.", 2)
    vae["first_stage_model.decoder.conv_out.weight"] *= 0.3
    state |= vae
    if family == "sd15":
        state |= filled(clip(words=words), "cond_stage_model.transformer.", 3)
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    elif family == "sd21":
        state |= filled(open_clip(words=words), "cond_stage_model.model.", 3)
    else:
        state |= filled(clip(words=words), "conditioner.embedders.0.transformer.", 3)
        state |= filled(open_clip(layers=3, words=words), "conditioner.embedders.1.model.", 4)
        return state
    return state | scheduler_buffers()
