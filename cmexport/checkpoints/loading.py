"""`load_checkpoint`: the one way from a path to a `ConsistencyModel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from cmexport.checkpoints.boundary import require_boundary
from cmexport.checkpoints.openai import architecture, build_adm_unet, infer_shape, resolve_config
from cmexport.checkpoints.prefixes import strip
from cmexport.checkpoints.reading import (
    FileFacts,
    Weights,
    file_facts,
    find_weights,
    looks_like_torch,
    read_torch,
    read_trusted,
)
from cmexport.checkpoints.settings import OPENAI, SamplingConstants, Settings, resolve_sampling, settings_for
from cmexport.checkpoints.sniff import recognize
from cmexport.errors import CheckpointError
from cmexport.model import CheckpointSource, Conditioning, ConsistencyModel


def load_checkpoint(
    path: Path | str, overrides: Mapping[str, str] = MappingProxyType({}), *, trust: bool = False
) -> ConsistencyModel:
    """Read a checkpoint of any supported format.

    The network comes back in eval mode and float32; weights of float32 files stay mapped from the file. Every constant
    is listed in `settings` with its origin; those marked ambiguous are guesses that `--set` should confirm.

    Args:
        path: the checkpoint.
        overrides: `--set` fields, name to text; see `KNOWN_SETTINGS`.
        trust: read the file with Python's full unpickler, which runs any code inside it.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not a consistency model; the message names file and
            reason.
        UsageError: an override is unknown, malformed or contradicts the weights.
    """
    where = Path(path)
    settings = settings_for(where, overrides)
    facts = file_facts(where)
    weights = _read(facts, trust)
    return require_boundary(_from_state(weights, settings))


def _read(facts: FileFacts, trust: bool) -> Weights:
    if trust:
        return find_weights(facts, "trusted pickle", read_trusted(facts))
    if looks_like_torch(facts.path):
        container, content = read_torch(facts)
        return find_weights(facts, container, content)
    raise CheckpointError(f"{facts.path}: is no checkpoint (torch.save writes a zip archive, this starts differently)")


def _from_state(weights: Weights, settings: Settings) -> ConsistencyModel:
    found = recognize(weights.file.path, weights.tensors)
    stripped = strip(weights.file.path, weights.tensors, found.prefix)
    if weights.within is not None:
        settings.inferred("entry", weights.within, "file")
    if stripped.prefix:
        settings.inferred("prefix", stripped.prefix, "file")
    builder = _BUILDERS.get(found.format)
    if builder is None:
        raise CheckpointError(f"{weights.file.path}: {found.format} weights can't be read from a bare state dict")
    return builder(Weights(weights.file, weights.container, stripped.tensors, weights.within), settings)


def _openai(weights: Weights, settings: Settings) -> ConsistencyModel:
    path = weights.file.path
    shape = infer_shape(path, {key: tensor.shape for key, tensor in weights.tensors.items()})
    config = resolve_config(path, shape, settings)
    constants = resolve_sampling(settings, OPENAI)
    chosen = settings.finish()
    network = build_adm_unet(path, config, weights.tensors)
    return assemble(
        network=network,
        architecture=architecture(config),
        channels=config.in_channels,
        image_size=config.image_size,
        classes=config.num_classes,
        constants=constants,
        source=CheckpointSource(path, f"openai ({weights.container})", weights.file.sha256, weights.file.size_bytes),
        settings=chosen,
    )


def assemble(
    *,
    network: nn.Module,
    architecture: Mapping[str, Any],
    channels: int,
    image_size: int,
    classes: int | None,
    constants: SamplingConstants,
    source: CheckpointSource,
    settings: tuple[Any, ...],
) -> ConsistencyModel:
    """Put the parts of a model together."""
    return ConsistencyModel(
        network=network,
        architecture=architecture,
        channels=channels,
        image_size=image_size,
        preconditioning=constants.preconditioning,
        c_noise=constants.c_noise,
        noise=constants.noise,
        conditioning=Conditioning(classes),
        renoise=constants.renoise,
        clamp=constants.clamp,
        source=source,
        settings=settings,
    )


_BUILDERS: Mapping[str, Callable[[Weights, Settings], ConsistencyModel]] = MappingProxyType({"openai": _openai})
