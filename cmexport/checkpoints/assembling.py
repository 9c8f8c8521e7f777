"""The last step of every loader: network, constants and source become a `ConsistencyModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cmexport.checkpoints.settings import SamplingConstants
from cmexport.model import CheckpointSource, Condition, ConsistencyModel, Policy, Space, class_labels


def assemble(
    *,
    network: nn.Module,
    architecture: Mapping[str, Any],
    space: Space,
    classes: int | None,
    constants: SamplingConstants,
    source: CheckpointSource,
    settings: tuple[Any, ...],
    conditions: tuple[Condition, ...] | None = None,
    policy: Policy | None = None,
) -> ConsistencyModel:
    """Put the parts of a model together; `conditions` are class labels unless others are given."""
    return ConsistencyModel(
        network=network,
        architecture=architecture,
        space=space,
        preconditioning=constants.preconditioning,
        c_noise=constants.c_noise,
        noise=constants.noise,
        conditions=class_labels(classes) if conditions is None else conditions,
        renoise=constants.renoise,
        clamp=constants.clamp,
        source=source,
        settings=settings,
        policy=policy,
    )
