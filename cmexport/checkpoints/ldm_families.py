"""Families of Stable Diffusion, told apart by which parts a file has, and what no file of one says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmexport.checkpoints.ldm_groups import CLIP, OPEN_CLIP, TEXT_PREFIXES, UNET_PREFIX, Groups
from cmexport.errors import CheckpointError

_END, _EXCLAMATION = "<|endoftext|>", "!"


@dataclass(frozen=True)
class Family:
    """What all models of a family have in common.

    Attributes:
        title: what people call it.
        side: height and width that it was trained on, pixels.
        scale: what latents are multiplied by (`scale_factor` of the training configuration).
        pads: what fills a prompt, for each text encoder.
        encoders: whose text encoders these are.
    """

    title: str
    side: int
    scale: float
    pads: tuple[str, ...]
    encoders: tuple[str, ...]


SD1 = Family("Stable Diffusion 1", 512, 0.18215, (_END,), (CLIP,))
SD2 = Family("Stable Diffusion 2", 512, 0.18215, (_EXCLAMATION,), (OPEN_CLIP,))
SDXL = Family("SDXL", 1024, 0.13025, (_END, _EXCLAMATION), (CLIP, OPEN_CLIP))

# Channels of UNets that take something beside latents.
_BESIDE = {5: "a depth map", 7: "a picture to enlarge", 8: "a picture to edit", 9: "a mask and a picture to fill in"}


def family_of(where: Path, groups: Groups) -> Family:
    """Tell the family of a file.

    Raises:
        CheckpointError: a part is missing, parts of two families lie together, or it is a model of another kind.
    """
    unet = groups.unet
    if unet is None:
        raise CheckpointError(f"{where}: holds no UNet ({UNET_PREFIX}*)")
    first = unet.tensors.get("input_blocks.0.0.weight")
    if first is not None and first.ndim == 4 and first.shape[1] != 4 and first.shape[1] in _BESIDE:
        raise CheckpointError(
            f"{where}: its UNet takes {first.shape[1]} channels: latents and {_BESIDE[first.shape[1]]}; only models "
            "that paint from noise alone are supported"
        )
    larger = any(name.startswith("label_emb.") for name in unet.tensors)
    encoders = tuple(TEXT_PREFIXES[group.prefix] for group in groups.texts)
    if larger and encoders == (OPEN_CLIP,) and groups.texts[0].prefix != "conditioner.embedders.1.model.":
        kind = (
            "SDXL's refiner" if groups.texts[0].prefix.startswith("conditioner.") else "a model of picture variations"
        )
        raise CheckpointError(f"{where}: is {kind}, which does not paint from noise and a prompt; not supported")
    if not encoders:
        raise CheckpointError(
            f"{where}: holds a UNet without a text encoder ({', '.join(list(TEXT_PREFIXES)[:2])}*);\n"
            'give the whole checkpoint ("full" or "pruned", not "UNet only"), or a diffusers folder'
        )
    families = (SDXL,) if larger else (SD1, SD2)
    found = next((family for family in families if family.encoders == encoders), None)
    if found is not None:
        return found
    prefixes = ", ".join(f"{group.prefix}*" for group in groups.texts)
    if larger:
        raise CheckpointError(f"{where}: its UNet is SDXL's, which needs two text encoders; there is {prefixes}")
    raise CheckpointError(f"{where}: holds the text encoders of two families: {prefixes}; which is meant can't be told")
