"""Which format a checkpoint has: first by its container, then by the names of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from cmexport.errors import CheckpointError


@dataclass(frozen=True)
class StateFormat:
    """A family of state dicts, recognized by weight names.

    Attributes:
        name: short.
        title: what people call it.
        anchor: the name whose prefix is looked for.
        also: further names that it must have.
        builder: "module:function" from `Weights` and `Settings` to a `ConsistencyModel`; "": its folder is loaded.
    """

    name: str
    title: str
    anchor: str
    also: tuple[str, ...] = ()
    builder: str = ""


_HERE = "cmexport.checkpoints"
_UNET = "input_blocks.0.0.weight"

# Earlier rows win: a CTM network has every name of an ADM UNet and more.
FAMILIES: dict[str, StateFormat] = {
    family.name: family
    for family in (
        StateFormat("ctm", "CTM", _UNET, ("time_embed_s.0.weight",), f"{_HERE}.adm_family:build_ctm"),
        StateFormat(
            "openai", "openai/consistency_models", _UNET, ("time_embed.0.weight",), f"{_HERE}.adm_family:build_openai"
        ),
        StateFormat("edm", "EDM/ECT", "map_layer0.weight", ("map_layer1.weight",), f"{_HERE}.edm_family:build"),
        StateFormat(
            "diffusers",
            "diffusers UNet2DModel",
            "time_embedding.linear_1.weight",
            ("conv_in.weight", "conv_out.weight"),
        ),
    )
}

_LORA = "a LoRA, which is no model by itself; give the model that it was made for, and this file as --lora FILE"
_AUTOENCODER = "an autoencoder alone (a VAE); a whole checkpoint has the network and its text encoder too"
_BARE_UNET = "a UNet of Stable Diffusion alone; the whole checkpoint has its text encoder and autoencoder too"
# Names that tell other people's models, for a helpful refusal.
_OTHERS: tuple[tuple[str, str], ...] = (
    ("unet.emb_fourier.freqs", "an EDM2 network, which is not supported yet"),
    ("emb_fourier.freqs", "an EDM2 network, which is not supported yet"),
    ("module.all_modules.0.W", "a score_sde network (NCSN++), which is not supported"),
    ("lora_unet_down_blocks_0_downsamplers_0_conv.lora_down.weight", _LORA),
    ("first_stage_model.decoder.mid.block_1.norm1.weight", _AUTOENCODER),
    ("decoder.mid.block_1.norm1.weight", _AUTOENCODER),
    ("decoder.mid_block.resnets.0.norm1.weight", _AUTOENCODER),
    ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3, which is not supported"),
    ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "a FLUX transformer, which is not supported"),
    ("double_blocks.0.img_attn.qkv.weight", "a FLUX transformer, which is not supported"),
    ("text_model.embeddings.token_embedding.weight", "a text encoder alone"),
)

# The names of Stable Diffusion's training code.
_LDM_UNET, _LDM_ATTENTION = "model.diffusion_model.", ".attn2.to_k.weight"


def is_stable_diffusion(names: Iterable[object]) -> bool:
    """Whether weights are Stable Diffusion's, in one file: a UNet of ldm with attention to a text."""
    return any(isinstance(name, str) and name.startswith(_LDM_UNET) and name.endswith(_LDM_ATTENTION) for name in names)


def refuse_lone_unet(path: Path, names: Iterable[object]) -> None:
    """Refuse Stable Diffusion's UNet without its other parts, whose names begin as those of an ADM UNet.

    Raises:
        CheckpointError: it is one.
    """
    blocks = ("input_blocks.", "diffusion_model.input_blocks.")
    if any(isinstance(name, str) and name.startswith(blocks) and name.endswith(_LDM_ATTENTION) for name in names):
        raise CheckpointError(f"{path}: is {_BARE_UNET}")


def refuse_unknown(path: Path, tensors: Mapping[str, Tensor]) -> NoReturn:
    """Say what a state dict is that holds no known network, by its names.

    Raises:
        CheckpointError: always.
    """
    for name, meaning in _OTHERS:
        if name in tensors:
            raise CheckpointError(f"{path}: is {meaning}")
    if any("lora" in key for key in tensors):
        raise CheckpointError(f"{path}: is {_LORA}")
    shown = ", ".join(list(tensors)[:3])
    raise CheckpointError(
        f"{path}: is the state dict of another model ({len(tensors)} weights: {shown}, ...);\n"
        f"known: weights of {', '.join(family.title for family in FAMILIES.values())}"
    )
