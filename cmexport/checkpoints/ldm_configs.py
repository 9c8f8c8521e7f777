"""Configurations of the networks in a Stable Diffusion file, told from names and shapes.

Such a file has no configuration. What shapes don't show is the same in all models of a family: 32 groups, heads of 64
in text encoders, and the UNet's heads, which the caller decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cmexport.checkpoints.ldm_names import Level, UnetLayout, open_clip_layers, vae_levels
from cmexport.errors import CheckpointError

State = Mapping[str, Tensor]

_HEAD = 64
"""Width of one attention head in CLIP's and OpenCLIP's text encoders: 12, 16 and 20 heads of 64."""
_OPEN_CLIP_H = 24
"""Layers of OpenCLIP's ViT-H/14. Stable Diffusion 2 takes what comes out of the one before the last."""


def _shape(state: State, name: str, rank: int) -> tuple[int, ...]:
    tensor = state.get(name)
    if tensor is None:
        raise CheckpointError(f"lacks {name}")
    if tensor.ndim != rank:
        raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}, not {rank} axes")
    return tuple(tensor.shape)


def unet_config(state: State, layout: UnetLayout) -> dict[str, Any]:
    """Fields of diffusers' `UNet2DConditionModel`, all but `attention_head_dim` and `sample_size`.

    Args:
        state: the UNet's weights, without their common prefix.
        layout: of its names.

    Raises:
        CheckpointError: diffusers has no such UNet; the message begins with the reason.
    """
    first = layout.down[0].blocks[0]
    place = next(
        (
            f"{way}_blocks.{block}.1."
            for way, levels in (("input", layout.down), ("output", layout.up))
            for level in levels
            for block, depth in zip(level.blocks, level.depths, strict=True)
            if depth
        ),
        "",
    )
    if not place:
        raise CheckpointError("its UNet has no attention to a text")
    projection = state.get(place + "proj_in.weight")
    down, up = [_depths(level) for level in layout.down], [_depths(level) for level in layout.up]
    if [len(level.blocks) + 1 for level in reversed(layout.down)] != [len(level.blocks) for level in layout.up]:
        raise CheckpointError("its UNet has no block more on the way up than on the way down in each level")
    if layout.middle_depth and down[-1] not in (0, layout.middle_depth):
        raise CheckpointError(f"its UNet has {layout.middle_depth} layers in the middle and {down[-1]} before it")
    # What a level without attention says is not looked at, but the last one's counts for the middle.
    layers = [depth or 1 for depth in down]
    layers[-1] = down[-1] or layout.middle_depth or 1
    upward = [depth or 1 for depth in up]
    config: dict[str, Any] = {
        "in_channels": _shape(state, "input_blocks.0.0.weight", 4)[1],
        "out_channels": _shape(state, "out.2.weight", 4)[0],
        "block_out_channels": [
            _shape(state, f"input_blocks.{level.blocks[-1]}.0.out_layers.3.weight", 4)[0] for level in layout.down
        ],
        "layers_per_block": [len(level.blocks) for level in layout.down],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in down],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in up],
        "mid_block_type": {0: None, 1: "UNetMidBlock2D", 3: "UNetMidBlock2DCrossAttn"}[len(layout.middle)],
        "transformer_layers_per_block": layers,
        "cross_attention_dim": _shape(state, place + "transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": projection is not None and projection.ndim == 2,
    }
    if any(isinstance(depth, list) for depth in layers) or (
        [depth for depth, real in zip(upward, up, strict=True) if real]
        != [depth for depth, real in zip(reversed(layers), reversed(down), strict=True) if real]
    ):
        config["reverse_transformer_layers_per_block"] = upward
    if len(set(config["layers_per_block"])) == 1:
        config["layers_per_block"] = config["layers_per_block"][0]
    if all(depth == 1 for depth in layers) and "reverse_transformer_layers_per_block" not in config:
        config["transformer_layers_per_block"] = 1
    for name in ("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"):
        if name in state:
            config["time_cond_proj_dim"] = _shape(state, name, 2)[1]
    if "label_emb.0.0.weight" in state:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": _shape(state, "label_emb.0.0.weight", 2)[1],
        }
    _shape(state, f"input_blocks.{first}.0.in_layers.2.weight", 4)
    return config


def _depths(level: Level) -> Any:
    """Count a level's transformer layers: 0, one number where all its blocks have as many, else a list."""
    if 0 in level.depths and any(level.depths):
        raise CheckpointError("its UNet has attention in some blocks of a level only")
    return level.depths[0] if len(set(level.depths)) == 1 else list(level.depths)


def kl_config(state: State) -> dict[str, Any]:
    """Fields of diffusers' `AutoencoderKL`, all but `scaling_factor`.

    Args:
        state: the autoencoder's weights, without their common prefix.

    Raises:
        CheckpointError: it is none; the message begins with the reason.
    """
    levels = vae_levels(state)
    blocks = 0
    while f"encoder.down.0.block.{blocks}.conv1.weight" in state:
        blocks += 1
    if not levels or not blocks:
        raise CheckpointError("its autoencoder has no encoder.down.0.block.0")
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": _shape(state, "encoder.conv_in.weight", 4)[1],
        "out_channels": _shape(state, "decoder.conv_out.weight", 4)[0],
        "latent_channels": _shape(state, "decoder.conv_in.weight", 4)[1],
        "block_out_channels": [
            _shape(state, f"encoder.down.{level}.block.0.conv1.weight", 4)[0] for level in range(levels)
        ],
        "layers_per_block": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
    }


def clip_config(state: State) -> dict[str, Any]:
    """Fields of transformers' `CLIPTextModel` with OpenAI's activation.

    Args:
        state: the weights by transformers' names without `text_model.`.

    Raises:
        CheckpointError: it is none; the message begins with the reason.
    """
    layers = 0
    while f"encoder.layers.{layers}.mlp.fc1.weight" in state:
        layers += 1
    words, width = _shape(state, "embeddings.token_embedding.weight", 2)
    positions = _shape(state, "embeddings.position_embedding.weight", 2)[0]
    inner = _shape(state, "encoder.layers.0.mlp.fc1.weight", 2)[0]
    return _text(words, width, positions, inner, layers, "quick_gelu")


def open_clip_config(state: State, layers: int) -> dict[str, Any]:
    """Fields of transformers' `CLIPTextModel` with OpenCLIP's activation.

    Args:
        state: the weights by OpenCLIP's names.
        layers: how many of them are taken.

    Raises:
        CheckpointError: it is none; the message begins with the reason.
    """
    words, width = _shape(state, "token_embedding.weight", 2)
    positions = _shape(state, "positional_embedding", 2)[0]
    inner = _shape(state, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    return _text(words, width, positions, inner, layers, "gelu")


def used_layers(state: State) -> int:
    """How many layers of OpenCLIP's encoder Stable Diffusion 2 needs: all but the last of 24.

    Files that were diffusers folders once have these 23 alone.
    """
    layers = open_clip_layers(state)
    return layers - 1 if layers == _OPEN_CLIP_H else layers


def _text(words: int, width: int, positions: int, inner: int, layers: int, activation: str) -> dict[str, Any]:
    if width % _HEAD:
        raise CheckpointError(f"its text encoder is {width} wide, no multiple of CLIP's heads of {_HEAD}")
    return {
        "architectures": ["CLIPTextModel"],
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "max_position_embeddings": positions,
        "hidden_act": activation,
    }
