"""The networks in a Stable Diffusion file: which of its weights each takes, which it lacks, which nobody takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from cmexport.checkpoints import ldm_configs as configs
from cmexport.checkpoints import ldm_names
from cmexport.checkpoints.ldm_groups import CLIP, TEXT_PREFIXES, Group, text_leftovers
from cmexport.checkpoints.ldm_names import Names
from cmexport.checkpoints.plausible import library_network
from cmexport.errors import CheckpointError
from cmexport.networks.clip_text import ClipTextEncoder, TextEncoderShape
from cmexport.networks.meta import on_meta

_SECOND = "text_encoder_2"
"""SDXL's second text encoder, whose pooled and projected output is used."""


@dataclass(frozen=True)
class FilePart:
    """A network in the file.

    Attributes:
        group: its weights as they lie there.
        config: fields of its class in diffusers or transformers.
        names: which tensor each weight is; none that the network does not have.
        missing: the network's names of weights that the file does not have.
        leftovers: names in the group that are known and not needed.
    """

    group: Group
    config: Mapping[str, Any]
    names: Names
    missing: tuple[str, ...]
    leftovers: tuple[str, ...] = ()

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The file's names of weights that the network does not have."""
        known = {taken.name for taken in self.names.values()} | set(self.leftovers)
        return tuple(self.group.whole(name) for name in self.group.tensors if name not in known)

    def state(self, stored: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights under the network's names, each taken out of `stored` when it is asked for."""
        return _Renamed(self, stored)


def _part(
    group: Group, config: Mapping[str, Any], names: Names, expected: Iterable[str], known: Iterable[str] = ()
) -> FilePart:
    """Match weights with those that a network expects; of `known` names in the group, those it doesn't take."""
    expected = list(expected)
    own = {new: names[new] for new in expected if new in names}
    used = {taken.name for taken in own.values()}
    missing = tuple(new for new in expected if new not in names)
    return FilePart(group, config, own, missing, tuple(name for name in known if name not in used))


class _Renamed(Mapping[str, Tensor]):
    def __init__(self, part: FilePart, stored: Mapping[str, Tensor]) -> None:
        self._part, self._stored = part, stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._part.names)

    def __len__(self) -> int:
        return len(self._part.names)

    def __getitem__(self, name: str) -> Tensor:
        taken = self._part.names[name]
        return taken.of(self._stored[self._part.group.whole(taken.name)])


def unet_part(where: Path, group: Group, heads: Mapping[str, Any]) -> FilePart:
    """Describe the UNet of a file.

    Args:
        where: the file, for errors.
        group: its weights.
        heads: fields of the configuration that shapes don't show.

    Raises:
        CheckpointError: it is no UNet that diffusers has.
        BackendError: diffusers is not installed.
    """
    try:
        layout = ldm_names.unet_layout(group.tensors)
        config = {**configs.unet_config(group.tensors, layout), **heads}
    except CheckpointError as problem:
        raise CheckpointError(f"{where}: {problem}") from problem
    network = library_network("UNet2DConditionModel", where, config)
    return _part(group, config, ldm_names.unet_names(group.tensors, layout), network.state_dict())


def kl_part(where: Path, group: Group, scale: float) -> FilePart:
    """Describe the autoencoder of a file; `scale` is what latents are multiplied by.

    Raises:
        CheckpointError: it is no AutoencoderKL.
        BackendError: diffusers is not installed.
    """
    try:
        config = {**configs.kl_config(group.tensors), "scaling_factor": scale}
    except CheckpointError as problem:
        raise CheckpointError(f"{where}: {problem}") from problem
    network = library_network("AutoencoderKL", where, config)
    names = ldm_names.kl_names(group.tensors, len(config["block_out_channels"]))
    return _part(group, config, names, network.state_dict())


def text_part(where: Path, group: Group) -> FilePart:
    """Describe a text encoder of a file, OpenAI's or OpenCLIP's by its prefix.

    Raises:
        CheckpointError: it is none.
    """
    state, second = group.tensors, group.part == _SECOND
    try:
        if TEXT_PREFIXES[group.prefix] == CLIP:
            names = ldm_names.clip_names(state)
            config = configs.clip_config({new: state[taken.name] for new, taken in names.items()})
        else:
            # SDXL takes the output before the last layer too, but the pooled one after all of them.
            layers = ldm_names.open_clip_layers(state) if second else configs.used_layers(state)
            names = ldm_names.open_clip_names(state, layers, projection=second)
            config = configs.open_clip_config(state, layers)
    except CheckpointError as problem:
        raise CheckpointError(f"{where}: {group.prefix}*: {problem}") from problem
    sizes = {f.name: config[f.name] for f in fields(TextEncoderShape) if f.name in config}
    expected = list(on_meta(lambda: ClipTextEncoder(TextEncoderShape(**sizes))).state_dict())
    if second:
        config |= {"architectures": ["CLIPTextModelWithProjection"], "projection_dim": config["hidden_size"]}
        expected.append("text_projection.weight")
    later = f"transformer.resblocks.{config['num_hidden_layers']}."
    unused = [name for name in state if name.startswith(later)]
    return _part(group, config, names, expected, (*text_leftovers(group), *unused))
