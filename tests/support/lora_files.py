"""LoRA files in every spelling, for the tiny pipelines, and what diffusers and peft make of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from support.latent_pipelines import save_pipeline
from torch import nn

from cmexport.checkpoints.lora.layers import sgm_names

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Trained:
    """One layer of a LoRA; `up` and `down` are (O, r[, 1, 1]) and (r, I[, k, k])."""

    part: str
    name: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None
    every: tuple[str, ...] = ()
    """Names of all layers of the network, by which `sgm` counts its own."""

    @property
    def convolution(self) -> bool:
        return self.down.ndim == 4


@cache
def base(folder: Path) -> dict[str, nn.Module]:
    """The networks of a saved pipeline, by part."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    return {
        "unet": UNet2DConditionModel.from_pretrained(folder, subfolder="unet"),
        "text_encoder": CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
    }


def trained(
    networks: dict[str, nn.Module],
    *,
    rank: int = 4,
    alpha: float | None = None,
    only: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    seed: int = 0,
) -> list[Trained]:
    """Random weights for all linear layers and convolutions whose names end in one of `only`, or for all."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for part, network in networks.items():
        every = tuple(name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d))
        for name, module in network.named_modules():
            if not isinstance(module, nn.Linear | nn.Conv2d) or (only and not name.endswith(only)):
                continue
            if any(piece in name for piece in without):
                continue
            shape = module.weight.shape
            ones = (1, 1) if len(shape) == 4 else ()
            down = torch.randn(rank, *shape[1:], generator=generator) / shape[1] ** 0.5
            up = torch.randn(shape[0], rank, *ones, generator=generator) * 0.2
            made.append(Trained(part, name, down, up, alpha, every))
    return made


def _kohya(layer: Trained, spelled: str) -> dict[str, torch.Tensor]:
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}[layer.part]
    inner = "" if layer.part == "unet" else "text_model_"
    name = prefix + inner + spelled.replace(".", "_")
    own = {f"{name}.lora_down.weight": layer.down, f"{name}.lora_up.weight": layer.up}
    return own if layer.alpha is None else {**own, f"{name}.alpha": torch.tensor(layer.alpha)}


def kohya(layers: list[Trained]) -> dict[str, torch.Tensor]:
    """kohya's scripts, with diffusers' names."""
    return {key: tensor for layer in layers for key, tensor in _kohya(layer, layer.name).items()}


def kohya_sgm(layers: list[Trained]) -> dict[str, torch.Tensor]:
    """kohya's scripts, with `sgm`'s names: diffusers, which reads the file, says whether they are right."""
    names = sgm_names(next(layer.every for layer in layers if layer.part == "unet"))
    spelled = [(layer, names[layer.name] if layer.part == "unet" else layer.name) for layer in layers]
    return {key: tensor for layer, name in spelled for key, tensor in _kohya(layer, name).items()}


def new(layers: list[Trained]) -> dict[str, torch.Tensor]:
    """What diffusers writes today."""
    inner = {"unet": "", "text_encoder": "text_model."}
    names = [(f"{layer.part}.{inner[layer.part]}{layer.name}", layer) for layer in layers]
    return {
        f"{name}.lora_{side}.weight": tensor
        for name, layer in names
        for side, tensor in (("A", layer.down), ("B", layer.up))
    }


def old(layers: list[Trained]) -> dict[str, torch.Tensor]:
    """What diffusers wrote in 2023: attention by its processors, the rest below `lora`."""
    tensors = {}
    text = {"q_proj": "to_q_lora", "k_proj": "to_k_lora", "v_proj": "to_v_lora", "out_proj": "to_out_lora"}
    for layer in layers:
        if layer.part == "unet":
            name = f"unet.{layer.name}.lora"
            for own in ATTENTION:
                if layer.name.endswith(own):
                    name = f"unet.{layer.name.removesuffix(own)}processor.{own.removesuffix('.0')}_lora"
        else:
            head, _, last = layer.name.rpartition(".")
            name = f"text_encoder.text_model.{head}.{text.get(last, last + '.lora_linear_layer')}"
        tensors |= {f"{name}.down.weight": layer.down, f"{name}.up.weight": layer.up}
    return tensors


def saved(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Written as safetensors."""
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, path, metadata)
    return path


def adapter_metadata(layers: list[Trained]) -> dict[str, str]:
    """How diffusers keeps alpha in the header."""
    fields = {}
    for part in {layer.part for layer in layers}:
        own = [layer for layer in layers if layer.part == part]
        config = {"r": own[0].down.shape[0], "lora_alpha": own[0].alpha, "peft_type": "LORA"}
        config["target_modules"] = sorted(layer.name for layer in own)
        fields |= {f"{part}.{name}": value for name, value in config.items()}
    return {"lora_adapter_metadata": json.dumps(fields), "format": "pt"}


def plain_pipeline(folder: Path) -> Path:
    """A StableDiffusionPipeline with LCM's scheduler."""
    return save_pipeline(folder, "lcm", latent=False)


def fused_by_diffusers(folder: Path, file: Path, scale: float, *, sgm: bool = False) -> dict[str, dict]:
    """Weights by part after diffusers' `load_lora_weights` and `fuse_lora`."""
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        more = {"unet_config": pipe.unet.config} if sgm else {}
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, **more)
        pipe.fuse_lora(components=["unet", "text_encoder"], lora_scale=scale)
        pipe.unload_lora_weights()
    return {"unet": pipe.unet.state_dict(), "text_encoder": pipe.text_encoder.state_dict()}
