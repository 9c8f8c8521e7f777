"""Our network as diffusers' UNet2DModel: configuration and weights, so that rivals run exactly the same model.

The map is that of diffusers' own `scripts/convert_consistency_to_diffusers.py`: L = num_res_blocks residual blocks per
level going down and L + 1 going up; `qkv` is cut into three linear layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cmexport.networks.adm_unet import AdmUnetConfig

_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def unet_arguments(config: AdmUnetConfig) -> dict[str, Any]:
    """Keyword arguments of `diffusers.UNet2DModel`.

    Raises:
        ValueError: a variant that UNet2DModel does not have.
    """
    if not config.resblock_updown or config.qkv_order != "thirds" or config.num_head_channels == -1:
        raise ValueError("UNet2DModel needs resblock_updown, thirds and a fixed head width")
    attends = [2**level in config.attention_downsampling for level in range(len(config.channel_mult))]
    return {
        "sample_size": config.image_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "layers_per_block": config.num_res_blocks,
        "block_out_channels": tuple(m * config.model_channels for m in config.channel_mult),
        "down_block_types": tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)),
        "num_class_embeds": config.num_classes,
        "attention_head_dim": config.num_head_channels,
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": config.groups,
        "resnet_time_scale_shift": "scale_shift" if config.use_scale_shift_norm else "default",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    }


def unet_state(config: AdmUnetConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under diffusers' names.

    Raises:
        KeyError: a key that an ADM UNet does not have.
    """
    modules = {**_ENDS, **_block_names(config)}
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if module == "label_emb":
            converted[f"class_embedding.{leaf}"] = tensor
        elif module.endswith(".qkv"):
            target = modules[module.removesuffix(".qkv")]
            rows = tensor.flatten(1) if leaf == "weight" else tensor
            for name, part in zip("qkv", rows.chunk(3), strict=True):
                converted[f"{target}.to_{name}.{leaf}"] = part.contiguous()
        elif module.endswith(".proj_out"):
            target = modules[module.removesuffix(".proj_out")]
            converted[f"{target}.to_out.0.{leaf}"] = tensor.flatten(1) if leaf == "weight" else tensor
        elif module.endswith(".norm"):
            converted[f"{modules[module.removesuffix('.norm')]}.group_norm.{leaf}"] = tensor
        else:
            converted[f"{modules[module]}.{leaf}"] = tensor
    return converted


def _block_names(config: AdmUnetConfig) -> dict[str, str]:
    """Modules inside blocks: residual blocks layer by layer, attention blocks as a whole."""
    levels, layers = len(config.channel_mult), config.num_res_blocks
    blocks: dict[str, str] = {}
    attentions: dict[str, str] = {"middle_block.1": "mid_block.attentions.0"}
    blocks["middle_block.0"], blocks["middle_block.2"] = "mid_block.resnets.0", "mid_block.resnets.1"
    for level in range(levels):
        for j in range(layers):
            ours = f"input_blocks.{1 + level * (layers + 1) + j}"
            blocks[f"{ours}.0"] = f"down_blocks.{level}.resnets.{j}"
            attentions[f"{ours}.1"] = f"down_blocks.{level}.attentions.{j}"
        blocks[f"input_blocks.{1 + level * (layers + 1) + layers}.0"] = f"down_blocks.{level}.downsamplers.0"
    for up in range(levels):
        attends = 2 ** (levels - 1 - up) in config.attention_downsampling
        for j in range(layers + 1):
            ours = f"output_blocks.{up * (layers + 1) + j}"
            blocks[f"{ours}.0"] = f"up_blocks.{up}.resnets.{j}"
            if attends:
                attentions[f"{ours}.1"] = f"up_blocks.{up}.attentions.{j}"
        last = f"output_blocks.{up * (layers + 1) + layers}.{2 if attends else 1}"
        blocks[last] = f"up_blocks.{up}.upsamplers.0"
    names = {f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in blocks.items() for a, b in _RES.items()}
    return {**names, **attentions}
