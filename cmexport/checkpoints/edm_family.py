"""Models whose network is one of EDM: SongUNet and DhariwalUNet, of NVlabs/edm and locuslab/ect."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.edm import ECT, build_edm_network
from cmexport.checkpoints.reading import Weights
from cmexport.checkpoints.settings import Default, Family, Settings, resolve_sampling
from cmexport.checkpoints.sizes import space_of
from cmexport.model import CheckpointSource, ConsistencyModel


def build(
    weights: Weights,
    settings: Settings,
    preferred: Mapping[str, Default] = MappingProxyType({}),
    family: Family = ECT,
) -> ConsistencyModel:
    """Build a network of EDM or ECT.

    Args:
        weights: under their original names.
        settings: what the user, the file and its neighbours say.
        preferred: constants that a pickled wrapper states.
        family: whose defaults hold for what nobody says.
    """
    path = weights.file.path
    if not preferred:
        # A bare state dict: nothing tells ECT's tuned networks from the diffusion models they start from.
        preferred = {"precond": Default(family.precond, f"default of {family.label}", ambiguous=True)}
    built = build_edm_network(path, weights.tensors, settings)
    constants = resolve_sampling(settings, family, preferred)
    return assemble(
        network=built.network,
        architecture=built.architecture,
        space=space_of(path, built.config.in_channels, built.config.image_size, 2 ** (len(built.config.widths) - 1)),
        classes=built.config.num_classes,
        constants=constants,
        source=CheckpointSource(path, f"edm ({weights.container})", weights.file.sha256, weights.file.size_bytes),
        settings=settings.finish(),
    )
