"""Names in Stable Diffusion's own files, and what diffusers and transformers call the same weights.

A UNet of ldm numbers its blocks: `input_blocks.4.1` is the attention (1) of the fourth block. Which blocks make a level
is told by the names themselves: one with `op` halves the picture and closes its level, on the way up one with `conv`
doubles it. So networks with fewer blocks (BK-SDM, SSD-1B, KOALA) need no table of their own.

CompVis/stable-diffusion `ldm/modules/diffusionmodules/{openaimodel,model}.py`, mlfoundations/open_clip
`src/open_clip/transformer.py`; targets are huggingface/diffusers and transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from cmexport.errors import CheckpointError


@dataclass(frozen=True)
class Taken:
    """Which of a file's tensors a weight is.

    Attributes:
        name: of the tensor, without its part's prefix.
        third: which third of its rows, where query, key and value lie above each other.
        transposed: the weight is its transpose.
        matrix: the weight is a matrix, and a 1x1 convolution in the file.
    """

    name: str
    third: int | None = None
    transposed: bool = False
    matrix: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """Take the weight out of the tensor.

        Raises:
            CheckpointError: it has no thirds, or is no matrix.
        """
        if self.third is not None:
            if not tensor.ndim or tensor.shape[0] % 3:
                raise CheckpointError(
                    f"{self.name} has shape {tuple(tensor.shape)}: no query, key and value above each other"
                )
            return tensor.chunk(3)[self.third]
        if self.matrix and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            return tensor[:, :, 0, 0]
        if not self.transposed:
            return tensor
        if tensor.ndim != 2:
            raise CheckpointError(f"{self.name} has shape {tuple(tensor.shape)}: no matrix")
        return tensor.T.contiguous()


Names = Mapping[str, Taken]
"""What each weight of a network is in the file, by the network's own names."""


@dataclass(frozen=True)
class Level:
    """Blocks of a UNet between two changes of resolution.

    Attributes:
        blocks: numbers of the blocks with a resnet, in order.
        depths: how many transformer layers the attention of each has; 0 without one.
        sampler: module that halves or doubles, as "input_blocks.3.0"; None in the last level.
    """

    blocks: tuple[int, ...]
    depths: tuple[int, ...]
    sampler: str | None


@dataclass(frozen=True)
class UnetLayout:
    """How the numbered blocks of a UNet are arranged.

    Attributes:
        down: levels from the picture down.
        up: levels back up.
        middle: what `middle_block.0, 1, 2` are: "resnet" or "attention".
        middle_depth: transformer layers of the middle's attention; 0 without one.
    """

    down: tuple[Level, ...]
    up: tuple[Level, ...]
    middle: tuple[str, ...]
    middle_depth: int

    @property
    def modules(self) -> Mapping[str, tuple[str, str]]:
        """The kind and diffusers' name of each module, by ldm's."""
        found: dict[str, tuple[str, str]] = {}
        for way, levels, sampler in (("input", self.down, "downsamplers"), ("output", self.up, "upsamplers")):
            for number, level in enumerate(levels):
                block = f"{'down' if way == 'input' else 'up'}_blocks.{number}"
                for place, (old, depth) in enumerate(zip(level.blocks, level.depths, strict=True)):
                    found[f"{way}_blocks.{old}.0"] = ("resnet", f"{block}.resnets.{place}")
                    if depth:
                        found[f"{way}_blocks.{old}.1"] = ("attention", f"{block}.attentions.{place}")
                if level.sampler:
                    found[level.sampler] = ("sampler", f"{block}.{sampler}.0")
        for kind in ("resnet", "attention"):
            for place, old in enumerate(i for i, is_one in enumerate(self.middle) if is_one == kind):
                found[f"middle_block.{old}"] = (kind, f"mid_block.{kind}s.{place}")
        return found


_BLOCK = re.compile(r"^(input_blocks|output_blocks)\.(\d{1,3})\.(\d)\.(.+)$")
_MIDDLE = re.compile(r"^middle_block\.(\d)\.(.+)$")
_LAYER = re.compile(r"^transformer_blocks\.(\d{1,3})\.")


def unet_layout(names: Iterable[str]) -> UnetLayout:
    """Tell the arrangement of a UNet from its names, without their common prefix.

    Raises:
        CheckpointError: it has none that diffusers' UNet can have; the message begins with the reason.
    """
    modules: dict[tuple[str, int, int], list[str]] = {}
    middle: dict[int, list[str]] = {}
    for name in names:
        if match := _BLOCK.match(name):
            modules.setdefault((match[1], int(match[2]), int(match[3])), []).append(match[4])
        elif match := _MIDDLE.match(name):
            middle.setdefault(int(match[1]), []).append(match[2])
    kinds = tuple("attention" if _depth(middle[i]) else "resnet" for i in sorted(middle))
    if sorted(middle) != list(range(len(middle))) or kinds not in ((), ("resnet",), ("resnet", "attention", "resnet")):
        raise CheckpointError(f"its middle_block is {', '.join(kinds)}; known is resnet, attention, resnet")
    down, up = _levels(modules, "input_blocks", 1, "op."), _levels(modules, "output_blocks", 0, "conv.")
    if len(down) != len(up):
        raise CheckpointError(f"its UNet has {len(down)} levels on the way down and {len(up)} on the way up")
    return UnetLayout(down, up, kinds, max((_depth(inner) for inner in middle.values()), default=0))


def _depth(inner: Iterable[str]) -> int:
    return 1 + max((int(match[1]) for name in inner if (match := _LAYER.match(name))), default=-1)


def _levels(modules: Mapping[tuple[str, int, int], list[str]], way: str, first: int, sampler: str) -> tuple[Level, ...]:
    numbers = sorted({number for kind, number, _ in modules if kind == way and number >= first})
    if numbers != list(range(first, first + len(numbers))) or not numbers:
        raise CheckpointError(f"its {way} have gaps: {', '.join(map(str, numbers)) or 'there are none'}")
    levels: list[Level] = []
    blocks: list[int] = []
    depths: list[int] = []
    for number in numbers:
        inner = {place: modules.get((way, number, place), []) for place in range(4)}
        closing = next((p for p, found in inner.items() if any(name.startswith(sampler) for name in found)), None)
        # On the way down what halves is a block of its own.
        if not (way == "input_blocks" and closing == 0):
            blocks.append(number)
            depths.append(_depth(inner[1]))
        if closing is not None:
            levels.append(Level(tuple(blocks), tuple(depths), f"{way}.{number}.{closing}"))
            blocks, depths = [], []
    levels.append(Level(tuple(blocks), tuple(depths), None))
    if not all(level.blocks for level in levels):
        raise CheckpointError(f"its {way} have a level without a resnet")
    return tuple(levels)


UNET_ENDS = MappingProxyType(
    {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "time_embed.cond_proj": "time_embedding.cond_proj",
        # diffusers' script back to ldm's names leaves this one as it is.
        "time_embedding.cond_proj": "time_embedding.cond_proj",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }
)
"""diffusers' names of the modules before and behind a UNet's blocks, by ldm's."""
RESNET = MappingProxyType(
    {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }
)
"""diffusers' names of the pieces of a residual block, by ldm's."""


def unet_names(names: Iterable[str], layout: UnetLayout) -> Names:
    """Name a UNet's weights as diffusers' `UNet2DConditionModel` does; names that it can't have are left out."""
    modules, found = layout.modules, {}
    for name in names:
        where, kind = name.rpartition(".")[::2]
        if where in UNET_ENDS:
            found[f"{UNET_ENDS[where]}.{kind}"] = Taken(name)
            continue
        match = _BLOCK.match(name) or _MIDDLE.match(name)
        module = "" if match is None else name[: match.start(match.lastindex or 0) - 1]
        if match is None or module not in modules:
            continue
        made, new = modules[module]
        inner = name[len(module) + 1 :].rpartition(".")[0]
        if made == "resnet":
            inner = RESNET.get(inner, "")
        elif made == "sampler":
            inner = "conv" if inner in ("op", "conv") else ""
        if inner:
            found[f"{new}.{inner}.{kind}"] = Taken(name)
    return found


_VAE = re.compile(r"^(encoder|decoder)\.(down|up)\.(\d)\.(?:block\.(\d{1,2})|(?:down|up)sample)\.(.+)$")
_VAE_MIDDLE = re.compile(r"^(encoder|decoder)\.mid\.(block|attn)_(\d)\.(.+)$")
_VAE_ATTENTION = MappingProxyType({"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"})
_VAE_ENDS = re.compile(
    r"^(?:(encoder|decoder)\.(conv_in|conv_out|norm_out)|quant_conv|post_quant_conv)\.(weight|bias)$"
)


def vae_levels(names: Iterable[str]) -> int:
    """Return the number of resolutions of an autoencoder; 0 where its names show none."""
    return 1 + max((int(match[3]) for name in names if (match := _VAE.match(name))), default=-1)


def kl_names(names: Iterable[str], levels: int) -> Names:
    """Name an autoencoder's weights as diffusers' `AutoencoderKL` does; names that it can't have are left out."""
    found = {}
    for name in names:
        if match := _VAE_ENDS.match(name):
            found[name.replace(".norm_out.", ".conv_norm_out.")] = Taken(name)
        elif match := _VAE.match(name):
            side, way, level, block, inner = match.groups()
            # ldm counts from the picture, diffusers in the order of evaluation.
            number = int(level) if way == "down" else levels - 1 - int(level)
            module = f"resnets.{block}" if block else f"{way}samplers.0"
            found[f"{side}.{way}_blocks.{number}.{module}.{inner.replace('nin_shortcut', 'conv_shortcut')}"] = Taken(
                name
            )
        elif match := _VAE_MIDDLE.match(name):
            side, what, number_, inner = match.groups()
            place = int(number_) - 1
            part, _, kind = inner.rpartition(".")
            if what == "block":
                found[f"{side}.mid_block.resnets.{place}.{inner.replace('nin_shortcut', 'conv_shortcut')}"] = Taken(
                    name
                )
            elif part in _VAE_ATTENTION:
                found[f"{side}.mid_block.attentions.{place}.{_VAE_ATTENTION[part]}.{kind}"] = Taken(name, matrix=True)
    return found


_CLIP = re.compile(r"^(?:text_model\.)?((?:embeddings|encoder|final_layer_norm)\..+)$")


def clip_names(names: Iterable[str]) -> Names:
    """Name a text encoder of transformers without `text_model.`, which files of 2022 leave out too."""
    return {match[1]: Taken(name) for name in names if (match := _CLIP.match(name))}


_OPEN_CLIP_ENDS = MappingProxyType(
    {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
)
_OPEN_CLIP_LAYER = MappingProxyType(
    {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
)
_RESBLOCK = re.compile(r"^transformer\.resblocks\.(\d{1,3})\.(.+)$")


def open_clip_layers(names: Iterable[str]) -> int:
    """Return the number of layers of OpenCLIP's text encoder."""
    return 1 + max((int(match[1]) for name in names if (match := _RESBLOCK.match(name))), default=-1)


def open_clip_names(names: Iterable[str], layers: int, *, projection: bool) -> Names:
    """Name OpenCLIP's text encoder as transformers' `CLIPTextModel` does, without `text_model.`.

    Args:
        names: without their common prefix.
        layers: how many are wanted; what lies in later ones is left out.
        projection: whether `text_projection` is (`CLIPTextModelWithProjection`); OpenCLIP's is the transpose.
    """
    found: dict[str, Taken] = {}
    for name in names:
        if name in _OPEN_CLIP_ENDS:
            found[_OPEN_CLIP_ENDS[name]] = Taken(name)
        elif name == "text_projection" and projection:
            found["text_projection.weight"] = Taken(name, transposed=True)
        elif (match := _RESBLOCK.match(name)) and int(match[1]) < layers:
            layer, inner = f"encoder.layers.{match[1]}", match[2]
            where, _, kind = inner.rpartition(".")
            if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
                for third, letter in enumerate("qkv"):
                    made = f"{layer}.self_attn.{letter}_proj.{inner.removeprefix('attn.in_proj_')}"
                    found[made] = Taken(name, third=third)
            elif where in _OPEN_CLIP_LAYER:
                found[f"{layer}.{_OPEN_CLIP_LAYER[where]}.{kind}"] = Taken(name)
    return found
