"""Add LoRA weights to a checkpoint's: in float64, before the networks are filled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cmexport.checkpoints.lora.choosing import LoraChoice
from cmexport.checkpoints.lora.layers import Layers
from cmexport.checkpoints.lora.reading import LoraFile, Pair, read_lora
from cmexport.checkpoints.reading import first_few
from cmexport.errors import CheckpointError
from cmexport.model import CheckpointSource, Lora, LoraLayer


class LoraMerger:
    """Hands each part of a checkpoint its share of the files; at the end, nothing may be left of them.

    Args:
        choices: files and scales.

    Raises:
        CheckpointError: see `read_lora`.
    """

    def __init__(self, choices: Sequence[LoraChoice]) -> None:
        self.files = tuple(read_lora(choice) for choice in choices)
        self._merged: list[list[LoraLayer]] = [[] for _ in self.files]
        self._taken: list[dict[str, str]] = [{} for _ in self.files]

    def merged(self, part: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a part's weights, with those of changed layers in float32, as the network computes.

        Args:
            part: "unet", "text_encoder" or "text_encoder_2".
            tensors: by their names in the network, of any floating point type.

        Raises:
            CheckpointError: a layer has other sizes than the LoRA's, or two entries of a file are for one layer.
        """
        if not self.files:
            return tensors
        # Read once: the mapping may be a file's.
        state = dict(tensors)
        layers = Layers.of(state)
        changes: dict[str, list[tuple[int, Pair]]] = {}
        for number, file in enumerate(self.files):
            for layer, pair in self._share(number, file, part, layers).items():
                changes.setdefault(layer, []).append((number, pair))
        for layer, pairs in changes.items():
            key = f"{layer}.weight"
            weight = state[key].to(torch.float64)
            norm, total = float(weight.norm()), weight.clone()
            for number, pair in pairs:
                file = self.files[number]
                alpha, factor = file.factor(part, layer, pair)
                delta = _product(file, part, layer, pair, weight.shape).mul_(factor)
                ratio = float(delta.norm()) / norm if norm else None
                self._merged[number].append(LoraLayer(part, layer, pair.rank, alpha, ratio))
                total += delta
            state[key] = total.to(torch.float32)
        return state

    def _share(self, number: int, file: LoraFile, part: str, layers: Layers) -> dict[str, Pair]:
        """Find what a file has for a part, by the network's names."""
        found: dict[str, Pair] = {}
        for text, pair in file.pairs.items():
            layer = pair.name.within(part, layers)
            if layer is None:
                continue
            other = self._taken[number].get(text)
            if other is not None:
                raise CheckpointError(
                    f"{file.choice.path}: {text} is a layer of {other} and of {part}, and nothing says which is meant"
                )
            if layer in found:
                raise CheckpointError(
                    f"{file.choice.path}: {found[layer].name.text} and {text} are one layer, {layer} of {part}"
                )
            self._taken[number][text] = part
            found[layer] = pair
        return found

    def finish(self) -> tuple[Lora, ...]:
        """Return what was merged, file by file.

        Raises:
            CheckpointError: the model has no such layers.
        """
        for file, taken in zip(self.files, self._taken, strict=True):
            if strangers := [text for text in file.pairs if text not in taken]:
                trained = f"; it was trained for {file.family}" if file.family else ""
                raise CheckpointError(
                    f"{file.choice.path}: {len(strangers)} of its {len(file.pairs)} layers are none of this model's: "
                    f"{first_few([name[:100] for name in strangers])}{trained}"
                )
        return tuple(
            Lora(
                file.choice.path,
                file.facts.sha256,
                file.facts.size_bytes,
                file.choice.scale,
                file.dialect,
                tuple(merged),
                file.dropped,
            )
            for file, merged in zip(self.files, self._merged, strict=True)
        )


def _product(file: LoraFile, part: str, layer: str, pair: Pair, shape: torch.Size) -> Tensor:
    """Multiply up and down in float64, in the shape of the layer's weight, (O, I) or (O, I, k, k).

    A 1x1 convolution and a linear layer are the same sum, and networks of one family differ in which they have.
    """
    assert pair.down is not None
    assert pair.up is not None
    down, up = pair.down.to(torch.float64), pair.up.to(torch.float64)
    if up.shape[0] != shape[0] or _taken(down.shape) != _taken(shape):
        has, needs = _in_words((up.shape[0], *down.shape[1:])), _in_words(shape)
        trained = f": it was trained for {file.family}" if file.family else ""
        raise CheckpointError(
            f"{file.choice.path}: is for another model than this{trained}\n"
            f"{pair.name.text} changes a layer of {has}; {layer} of {part} has {needs}"
        )
    return (up.flatten(1) @ down.flatten(1)).reshape(shape)


def _taken(shape: Sequence[int]) -> tuple[int, ...]:
    """Return what one output of a layer is made of: channels, and height and width of a kernel above 1x1."""
    return (shape[1],) if all(side == 1 for side in shape[2:]) else tuple(shape[1:])


def _in_words(shape: Sequence[int]) -> str:
    kernel = "" if len(shape) == 2 else f", kernel {'x'.join(map(str, shape[2:]))}"
    return f"{shape[1]} to {shape[0]} channels{kernel}"


def merged_source(source: CheckpointSource, loras: Sequence[Lora]) -> CheckpointSource:
    """Return a source whose hash names the merged weights: of the checkpoint's, and of every file's with its scale.

    Path and bytes stay those of the checkpoint, by which it is found again.
    """
    if not loras:
        return source
    listed = "".join(f"lora\0{lora.sha256}\0{lora.scale!r}\n" for lora in loras)
    digest = hashlib.sha256(f"{source.sha256}\n{listed}".encode())
    return replace(source, sha256=digest.hexdigest())
