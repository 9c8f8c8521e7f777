"""Models whose network is an ADM UNet under its original names: openai/consistency_models and sony/ctm."""

from __future__ import annotations

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.openai import architecture, build_adm_unet, infer_shape, resolve_config
from cmexport.checkpoints.openai_flags import precond_from_flags
from cmexport.checkpoints.reading import Weights
from cmexport.checkpoints.scalar_label import scalar_label
from cmexport.checkpoints.settings import CTM, OPENAI, Family, Settings, resolve_sampling
from cmexport.checkpoints.sizes import space_of
from cmexport.model import CheckpointSource, ConsistencyModel
from cmexport.networks.adm_unet import AdmUnet
from cmexport.networks.ctm_unet import CtmUnet
from cmexport.sampling.preconditioning import c_noise_at


def build_openai(weights: Weights, settings: Settings) -> ConsistencyModel:
    """Build an ADM UNet of openai/consistency_models."""
    return _adm(weights, settings, OPENAI, "openai")


def build_ctm(weights: Weights, settings: Settings) -> ConsistencyModel:
    """Build a consistency trajectory model of sony/ctm, which jumps to sigma_min unless it is told otherwise."""
    model = _adm(weights, settings, CTM, "ctm")
    assert isinstance(model.network, CtmUnet)
    model.network.c_noise_target = c_noise_at(model.c_noise, model.noise.sigma_min)
    return model


def _adm(weights: Weights, settings: Settings, family: Family, name: str) -> ConsistencyModel:
    path = weights.file.path
    shape = infer_shape(path, {key: tensor.shape for key, tensor in weights.tensors.items()})
    config = resolve_config(path, shape, settings)
    constants = resolve_sampling(settings, family, precond_from_flags(settings))
    conditions = (scalar_label(settings),) if config.scalar_label else None
    chosen = settings.finish()
    network = build_adm_unet(path, config, weights.tensors, CtmUnet if family is CTM else AdmUnet)
    return assemble(
        network=network,
        architecture=architecture(config, "ctm_unet" if family is CTM else "adm_unet"),
        space=space_of(path, config.in_channels, config.image_size, 2 ** (len(config.channel_mult) - 1)),
        classes=config.num_classes,
        conditions=conditions,
        constants=constants,
        source=CheckpointSource(path, f"{name} ({weights.container})", weights.file.sha256, weights.file.size_bytes),
        settings=chosen,
    )
