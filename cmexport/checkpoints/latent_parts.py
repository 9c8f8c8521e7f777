"""The parts of a text-to-image pipeline as they were read, whatever kind of file they lay in.

`latent_folder` makes them of diffusers' folders, `single_file` of one file; `latent_model` makes a model of them and
knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cmexport.alphas import AlphaSchedule
from cmexport.checkpoints.diffusers_networks import renamed
from cmexport.model import CheckpointSource
from cmexport.tokenizer import Tokenizer

State = Mapping[str, Tensor]

TEXTS = ("text_encoder", "text_encoder_2")
"""Text encoders, as many as a pipeline may have; each has a tokenizer."""


@dataclass(frozen=True)
class Part:
    """A network of a pipeline: its configuration and its weights under the names that its class has today.

    Weights are read when the network is there to take them: a configuration that is wrong costs no gigabytes.

    Attributes:
        config: fields of diffusers' or transformers' `config.json`.
        read: reads the weights; names of a text encoder come without `text_model.`.
        where: what the configuration was read from, for errors.
        weights: what the weights are read from, for errors.
        origin: what says the configuration, for settings: "vae/config.json".
    """

    config: Mapping[str, Any]
    read: Callable[[], State]
    where: Path
    weights: Path
    origin: str

    def changed(self, change: Callable[[State], State]) -> Part:
        """Return the part whose weights go through `change` between reading and filling: what a LoRA is merged by."""
        return replace(self, read=lambda: change(self.read()))


@dataclass(frozen=True)
class Text:
    """A text encoder with what makes its tokens."""

    encoder: Part
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Parts:
    """All that a latent model is made of.

    Attributes:
        pipeline: class of diffusers whose defaults hold.
        texts: text encoders, in the order in which what they give is joined.
        unet: a `UNet2DConditionModel`.
        vae: an `AutoencoderKL` or `AutoencoderTiny`.
        schedule: the scheduler.
        schedule_origin: what says it, for settings: "scheduler_config.json".
        where: the file or folder, for errors.
        source: which bytes were read; asked when all parts have been.
        unsaid: whether guidance compares with zeros instead of the empty prompt's embeddings, SDXL's
            `force_zeros_for_empty_prompt`.
    """

    pipeline: str
    texts: tuple[Text, ...]
    unet: Part
    vae: Part
    schedule: AlphaSchedule
    schedule_origin: str
    where: Path
    source: Callable[[], CheckpointSource]
    unsaid: bool = False


def text_names(tensors: State) -> State:
    """Return weights of a CLIP text encoder as transformers' class names them below `text_model`."""
    named = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    named.pop("embeddings.position_ids", None)
    return named


def vae_names(tensors: State) -> State:
    """Return weights of an autoencoder under the names and in the shapes that its attention has today."""
    # Attention was 1x1 convolutions before diffusers 0.17.
    return {
        name: tensor[:, :, 0, 0]
        if ".attentions." in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
        else tensor
        for name, tensor in renamed(tensors).items()
    }
