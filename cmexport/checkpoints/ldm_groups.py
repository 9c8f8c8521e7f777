"""The parts of a Stable Diffusion file, by the prefixes of their names, and what lies beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
VAE_PREFIX = "first_stage_model."
CLIP, OPEN_CLIP = "clip", "open_clip"
TEXT_PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "cond_stage_model.transformer.": CLIP,
        "cond_stage_model.model.": OPEN_CLIP,
        # Stability's generative-models, of SDXL and of SD-Turbo.
        "conditioner.embedders.0.transformer.": CLIP,
        "conditioner.embedders.0.model.": OPEN_CLIP,
        "conditioner.embedders.1.model.": OPEN_CLIP,
    }
)
"""Where text encoders lie, and whose names they have."""

# Buffers of training and of samplers, and parts of networks that a picture does not need.
_LEFTOVERS = re.compile(
    r"betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|scale_factor|logvar|lvlb_weights"
    r"|posterior_(variance|log_variance_clipped|mean_coef[12])|denoiser\.(log_)?sigmas"
    r"|model_ema\.(decay|num_updates)|(cond_stage_model|conditioner\.embedders\.\d)\.logit_scale"
    r"|first_stage_model\.(loss|model_ema)\..+|v_pred|ztsnr"
)
_IN_TEXT = {
    CLIP: re.compile(r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale"),
    OPEN_CLIP: re.compile(r"logit_scale|attn_mask|text_projection"),
}


@dataclass(frozen=True)
class Group:
    """The weights of one part as they lie in the file.

    Attributes:
        part: diffusers' name of it: "unet", "vae", "text_encoder", "text_encoder_2".
        prefix: in front of all its names.
        tensors: by what follows the prefix.
        names: the whole names in the file, where these are not prefix and name (averages have no dots).
    """

    part: str
    prefix: str
    tensors: Mapping[str, Tensor]
    names: Mapping[str, str] = field(default_factory=dict)

    def whole(self, name: str) -> str:
        """Return what the file calls a weight."""
        return self.names.get(name, self.prefix + name)


@dataclass(frozen=True)
class Groups:
    """A file's weights, sorted.

    Attributes:
        unet, vae: each None where the file has none.
        texts: text encoders by prefix, in order.
        average: the UNet's averaged weights under the names of `unet`; None where the file has none.
        leftovers: names that are known and say nothing about a picture.
        beside: names that belong to no part and are not known.
    """

    unet: Group | None
    vae: Group | None
    texts: tuple[Group, ...]
    average: Group | None
    leftovers: tuple[str, ...]
    beside: tuple[str, ...]


def grouped(state: Mapping[str, Tensor]) -> Groups:
    """Sort a file's weights into parts by their names."""
    prefixes = (UNET_PREFIX, VAE_PREFIX, *TEXT_PREFIXES)
    found: dict[str, dict[str, Tensor]] = {}
    averages, leftovers, beside = {}, [], []
    for name, tensor in state.items():
        prefix = next((p for p in prefixes if name.startswith(p)), "")
        if _LEFTOVERS.fullmatch(name):
            leftovers.append(name)
        elif prefix:
            found.setdefault(prefix, {})[name[len(prefix) :]] = tensor
        elif name.startswith(EMA_PREFIX):
            averages[name] = tensor
        else:
            beside.append(name)
    encoders = [prefix for prefix in TEXT_PREFIXES if prefix in found]
    texts = tuple(
        Group("text_encoder" if number == 0 else f"text_encoder_{number + 1}", prefix, found[prefix])
        for number, prefix in enumerate(encoders)
    )
    unet = Group("unet", UNET_PREFIX, found[UNET_PREFIX]) if UNET_PREFIX in found else None
    average = None
    if unet is not None and averages:
        average, others = _average(unet, averages)
        beside += others
    return Groups(
        unet,
        Group("vae", VAE_PREFIX, found[VAE_PREFIX]) if VAE_PREFIX in found else None,
        texts,
        average,
        tuple(leftovers),
        tuple(beside),
    )


def _average(unet: Group, averages: Mapping[str, Tensor]) -> tuple[Group, list[str]]:
    """Give averages (LitEma: names without dots) the names of what they are averages of."""
    spelled = {EMA_PREFIX + "diffusion_model" + name.replace(".", ""): name for name in unet.tensors}
    known = {spelled[name]: name for name in averages if name in spelled}
    tensors = {short: averages[name] for short, name in known.items()}
    return Group("unet", EMA_PREFIX, tensors, known), [name for name in averages if name not in spelled]


def text_leftovers(group: Group) -> tuple[str, ...]:
    """Return what no picture needs of a text encoder: `position_ids`, which some merges damaged, the logits' scale."""
    pattern = _IN_TEXT[TEXT_PREFIXES[group.prefix]]
    return tuple(name for name in group.tensors if pattern.fullmatch(name))
