"""The last step of every loader: network, constants and source become a `ConsistencyModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cmexport.checkpoints.settings import SamplingConstants
from cmexport.model import CheckpointSource, Conditioning, ConsistencyModel


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
