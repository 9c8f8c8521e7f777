"""A file of LoRA weights: pairs of matrices by the name of their layer, in whatever spelling, and what scales them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cmexport.checkpoints.lora.choosing import LoraChoice
from cmexport.checkpoints.lora.configuration import Alphas, alphas_beside, alphas_in
from cmexport.checkpoints.lora.layers import Layers
from cmexport.checkpoints.reading import (
    FileFacts,
    container_of,
    counted,
    file_facts,
    find_weights,
    finite,
    first_few,
    read_torch,
)
from cmexport.checkpoints.safetensors_file import metadata_of, read_safetensors
from cmexport.checkpoints.torch_files import UnsafeContentError
from cmexport.errors import CheckpointError

# lora_down (kohya-ss/sd-scripts `networks/lora.py`), lora_A (peft), lora.down and, for text encoders,
# lora_linear_layer.down (diffusers since 0.18), to_q_lora.down (before).
_MATRIX = re.compile(
    r"^(?P<base>.+?)(?:\.lora_(?P<peft>[AB])(?:\.(?!weight$)\w+)?|\.lora_(?P<kohya>down|up)"
    r"|\.lora(?:_linear_layer)?\.(?P<new>down|up)|_lora\.(?P<old>down|up))\.weight$"
)
_ALPHA = re.compile(r"^(?P<base>.+?)(?:\.lora(?:_linear_layer)?|(?P<old>_lora))?\.alpha$")
_KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
_PARTS = ("unet", "text_encoder", "text_encoder_2")
_SGM = ("input_blocks_", "middle_block_", "output_blocks_")
_BLOCKS = ("down_blocks_", "mid_block_", "up_blocks_")
# What else is trained as a small file, by what its names hold. Each has a formula of its own.
_OTHERS = (
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_", "LyCORIS LoHa"),
    ("lokr_", "LyCORIS LoKr"),
    ("oft_", "LyCORIS OFT"),
    ("glora_", "LyCORIS GLoRA"),
    ("lora_mid", "LyCORIS LoCon with a core tensor"),
    ("lora_embedding_", "LoRA of embeddings"),
    ("lora_B.bias", "LoRA with biases"),
    ("vera_lambda", "VeRA"),
)
# Width of what cross-attention reads: CLIP-L, OpenCLIP-H, and both encoders of SDXL.
_FAMILIES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}


@dataclass(frozen=True)
class LayerName:
    """How a file names a layer.

    Attributes:
        text: as it stands there, without what says which matrix it is.
        part: "unet", "text_encoder" or "text_encoder_2"; None where nothing says it.
        name: the layer's name in this part, in the file's spelling.
        dialect: whose spelling that is.
    """

    text: str
    part: str | None
    name: str
    dialect: str

    def within(self, part: str, layers: Layers) -> str | None:
        """Find the layer in a network; None where it has none of that name."""
        if self.part not in (part, None):
            return None
        if self.dialect == KOHYA:
            return layers.flat(self.name)
        if self.dialect == KOHYA_SGM:
            return layers.flat_sgm(self.name)
        return layers.dotted(self.name, old=self.dialect == OLD)


KOHYA, KOHYA_SGM, PEFT, NEW, OLD = "kohya", "kohya with SGM names", "peft", "diffusers", "old diffusers"


@dataclass
class Pair:
    """What is added to one layer; `alpha` is None where the file has none of its own."""

    name: LayerName
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None

    @property
    def rank(self) -> int:
        """The number that both matrices share."""
        assert self.down is not None
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    """One file as read.

    Attributes:
        choice: path and scale.
        facts: hash and size.
        pairs: by the layer's name in the file.
        alphas: what the file's metadata, or a configuration beside it, say of scaling.
        dropped: how many layers were named twice, in `sgm`'s spelling too.
    """

    choice: LoraChoice
    facts: FileFacts
    pairs: Mapping[str, Pair]
    alphas: Alphas
    dropped: int = 0

    @property
    def dialect(self) -> str:
        """Whose spellings the file has."""
        return " and ".join(sorted({pair.name.dialect for pair in self.pairs.values()}))

    @property
    def family(self) -> str | None:
        """Which models it was trained for, as far as the width of its cross-attention tells."""
        for pair in self.pairs.values():
            if re.search(r"attn2[._](?:processor\.)?to_k$", pair.name.name) and pair.down is not None:
                return _FAMILIES.get(pair.down.shape[1])
        return None

    def factor(self, part: str, layer: str, pair: Pair) -> tuple[float, float]:
        """Return alpha, and what the product of the matrices is multiplied by, the scale included.

        Raises:
            CheckpointError: a configuration gives an impossible alpha.
        """
        alpha, divisor = self.alphas.of(part, layer, pair.rank)
        if pair.alpha is not None:
            alpha, divisor = pair.alpha, float(pair.rank)
        return alpha, self.choice.scale * alpha / divisor


def read_lora(choice: LoraChoice) -> LoraFile:
    """Read a file of LoRA weights: safetensors, or what `torch.save` wrote, of which nothing is run.

    Raises:
        CheckpointError: missing, damaged, no LoRA, or a kind that is not supported.
    """
    path = choice.path
    facts = file_facts(path)
    kind = container_of(path)
    metadata: dict[str, str] = {}
    if kind == "safetensors":
        tensors: Mapping[str, Tensor] = read_safetensors(path)
        metadata = metadata_of(path)
    elif kind == "torch":
        container, content = _read_safely(facts)
        tensors = find_weights(facts, container, content).tensors
    else:
        raise CheckpointError(f"{path}: is no LoRA: neither safetensors nor torch.save wrote it")
    _refuse_others(path, tensors)
    pairs = _pairs(path, tensors)
    dropped = _without_doubles(pairs)
    for pair in pairs.values():
        _check(path, pair)
    alphas = alphas_in(path, metadata) or alphas_beside(path)
    return LoraFile(choice, facts, pairs, alphas, dropped)


def _read_safely(facts: FileFacts) -> tuple[str, Any]:
    try:
        return read_torch(facts)
    except CheckpointError as error:
        if isinstance(error.__cause__, UnsafeContentError):
            # Where a checkpoint may be trusted, a LoRA need not be: none is given away as a pickle alone.
            first = str(error).splitlines()[0]
            raise CheckpointError(f"{first}\nask its author for a .safetensors") from error
        raise


def _refuse_others(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for mark, kind in _OTHERS:
        if found := [key for key in tensors if mark in key]:
            raise CheckpointError(
                f"{path}: is a {kind} ({found[0][:120]}), which is not supported;\n"
                "merge it into the checkpoint with the tool that trained it, or use a plain LoRA"
            )
    if not any(_MATRIX.match(key) for key in tensors):
        shown = ", ".join(key[:80] for key in list(tensors)[:2]) or "nothing"
        raise CheckpointError(
            f"{path}: holds no LoRA, but {shown}{', ...' if len(tensors) > 2 else ''}\n"
            "--lora takes files of lora_down and lora_up; a whole model is the CKPT itself"
        )


def _pairs(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Pair]:
    pairs: dict[str, Pair] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        if match := _MATRIX.match(key):
            which = match["peft"] or match["kohya"] or match["new"] or match["old"]
            down = which in ("A", "down")
            name = _named(match["base"], old=match["old"] is not None, peft=match["peft"] is not None)
            pair = pairs.setdefault(match["base"], Pair(name))
            if (pair.down if down else pair.up) is not None:
                raise CheckpointError(f"{path}: {key} is there twice, in two spellings")
            _check_matrix(path, key, tensor)
            if down:
                pair.down = tensor
            else:
                pair.up = tensor
        elif match := _ALPHA.match(key):
            name = _named(match["base"], old=match["old"] is not None, peft=False)
            pairs.setdefault(match["base"], Pair(name)).alpha = _alpha(path, key, tensor)
        else:
            unknown.append(key)
    if unknown:
        shown = first_few([name[:100] for name in unknown])
        raise CheckpointError(f"{path}: {counted(unknown, 'weight')} that no LoRA has: {shown}")
    return pairs


def _named(text: str, *, old: bool, peft: bool) -> LayerName:
    for prefix, part in _KOHYA.items():
        if text.startswith(prefix):
            name = text.removeprefix(prefix)
            sgm = part == "unet" and name.startswith((*_SGM, "time_embed_", "label_emb_", "out_2"))
            return LayerName(text, part, name, KOHYA_SGM if sgm else KOHYA)
    name, part_said, wrapped = text, None, False
    # peft saves one network (`base_model.model.`); whoever puts several in one file says which is which around it.
    for _ in range(3):
        wrapped = wrapped or name.startswith("base_model.model.")
        name = name.removeprefix("base_model.model.")
        for candidate in _PARTS:
            if part_said is None and name.startswith(candidate + "."):
                name, part_said = name.removeprefix(candidate + "."), candidate
    old = old or ".processor." in name
    return LayerName(text, part_said, name, OLD if old else PEFT if wrapped or (peft and not part_said) else NEW)


def _without_doubles(pairs: dict[str, Pair]) -> int:
    """Drop `sgm`'s names where the UNet's blocks have diffusers' as well, as diffusers does; returns how many."""
    names = [pair.name for pair in pairs.values()]
    if not any(name.dialect == KOHYA and name.name.startswith(_BLOCKS) for name in names):
        return 0
    doubles = [name.text for name in names if name.dialect == KOHYA_SGM and name.name.startswith(_SGM)]
    for text in doubles:
        del pairs[text]
    return len(doubles)


def _check_matrix(path: Path, key: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or tensor.ndim not in (2, 4) or 0 in tensor.shape:
        raise CheckpointError(f"{path}: {key} is {tensor.dtype} of shape {tuple(tensor.shape)}, no matrix of a LoRA")
    finite(path, key, tensor)


def _alpha(path: Path, key: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or tensor.is_complex():
        raise CheckpointError(f"{path}: {key} has shape {tuple(tensor.shape)}, but alpha is one number")
    value = float(tensor.item())
    if not math.isfinite(value) or value == 0.0:
        raise CheckpointError(f"{path}: {key} is {value:g}; with this alpha the LoRA says nothing")
    return value


def _check(path: Path, pair: Pair) -> None:
    """Refuse half a pair, and matrices that don't fit each other."""
    name = pair.name.text
    if pair.down is None or pair.up is None:
        there = "an alpha" if pair.down is None and pair.up is None else "one matrix"
        raise CheckpointError(f"{path}: {name} has {there} alone; each layer of a LoRA has two, down and up")
    down, up = pair.down, pair.up
    if up.shape[1] != down.shape[0]:
        raise CheckpointError(
            f"{path}: {name}: down has rank {down.shape[0]}, up {up.shape[1]}; they were trained apart"
        )
    if any(side != 1 for side in up.shape[2:]):
        raise CheckpointError(f"{path}: {name}: up has shape {tuple(up.shape)}; only 1x1 convolutions are supported")
