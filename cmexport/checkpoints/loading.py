"""`load_checkpoint`: the one way from a path to a `ConsistencyModel`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.boundary import require_boundary
from cmexport.checkpoints.diffusers_folder import fetch_from_hub, is_hub_id, load_folder
from cmexport.checkpoints.edm import ECT, EDM, build_edm_network
from cmexport.checkpoints.edm_pickle import preconditioning_of, read_edm_pickle
from cmexport.checkpoints.embedded import embedded_settings
from cmexport.checkpoints.openai import architecture, build_adm_unet, infer_shape, resolve_config
from cmexport.checkpoints.openai_flags import precond_from_flags
from cmexport.checkpoints.own_module import is_module_reference, load_module
from cmexport.checkpoints.prefixes import strip
from cmexport.checkpoints.reading import (
    FileFacts,
    Weights,
    container_of,
    file_facts,
    find_weights,
    read_torch,
    read_trusted,
)
from cmexport.checkpoints.safe_pickle import PickleRefusedError
from cmexport.checkpoints.safetensors_file import read_safetensors
from cmexport.checkpoints.settings import (
    CTM,
    OPENAI,
    Default,
    Family,
    Settings,
    resolve_sampling,
    settings_for,
)
from cmexport.checkpoints.sidecar import read_sidecar
from cmexport.checkpoints.sizes import space_of
from cmexport.checkpoints.sniff import recognize
from cmexport.errors import CheckpointError
from cmexport.model import CheckpointSource, ConsistencyModel
from cmexport.networks.adm_unet import AdmUnet
from cmexport.networks.ctm_unet import CtmUnet
from cmexport.sampling.preconditioning import c_noise_at


def load_checkpoint(
    path: Path | str, overrides: Mapping[str, str] = MappingProxyType({}), *, trust: bool = False
) -> ConsistencyModel:
    """Read a checkpoint of any supported format.

    The network comes back in eval mode and float32. Every constant is listed in `settings` with its origin; those
    marked ambiguous are guesses that `--set` should confirm.

    Args:
        path: a checkpoint file, a diffusers folder, a hub id (`openai/diffusers-cd_imagenet64_l2`), or
            `my_module.py:build`, which is run. A `cmexport.toml` beside a file supplies constants.
        overrides: `--set` fields, name to text; see `KNOWN_SETTINGS`.
        trust: read the file with Python's full unpickler, which runs any code inside it.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not a consistency model; the message names file and
            reason.
        UsageError: an override is unknown, malformed or contradicts the weights.
        BackendError: the format needs a library that is not installed.
    """
    text, where = str(path), Path(path)
    if is_module_reference(text):
        return load_module(text, overrides)
    if not where.exists() and is_hub_id(text):
        where = fetch_from_hub(text)
    if where.is_dir():
        named = Path(text)
        return require_boundary(load_folder(where, settings_for(named, overrides)))
    sidecar = read_sidecar(where)
    settings = settings_for(where, overrides, sidecar.values)
    model = _from_file(file_facts(where), settings, trust)
    if sidecar.architecture not in (None, model.architecture["name"]):
        raise CheckpointError(
            f"{where}: holds a {model.architecture['name']}, but {sidecar.path} names {sidecar.architecture}"
        )
    return require_boundary(model)


def _from_file(facts: FileFacts, settings: Settings, trust: bool) -> ConsistencyModel:
    if trust:
        content = read_trusted(facts)
        settings.embedded = embedded_settings(content)
        return _from_state(find_weights(facts, "trusted pickle", content), settings)
    kind = container_of(facts.path)
    if kind == "torch":
        container, content = read_torch(facts)
        settings.embedded = embedded_settings(content)
        return _from_state(find_weights(facts, container, content), settings)
    if kind == "safetensors":
        return _from_state(find_weights(facts, kind, read_safetensors(facts.path)), settings)
    if kind == "pickle":
        return _from_pickle(facts, settings)
    raise CheckpointError(f"{facts.path}: is no checkpoint: neither torch.save, nor a pickle, nor safetensors wrote it")


def _from_pickle(facts: FileFacts, settings: Settings) -> ConsistencyModel:
    found = read_edm_pickle(facts)
    try:
        precond = preconditioning_of(found)
    except PickleRefusedError as error:
        raise CheckpointError(f"{facts.path}: {error}") from error
    recognized = recognize(facts.path, found.tensors)
    if recognized.format != "edm":
        raise CheckpointError(f"{facts.path}: a pickled {found.class_name} with {recognized.format} weights is unknown")
    settings.inferred("entry", found.entry, "file")
    stripped = strip(facts.path, found.tensors, recognized.prefix)
    weights = Weights(facts, f"pickled {found.class_name}", stripped.tensors, found.entry)
    preferred = {"precond": precond}
    for name in ("sigma_data", "sigma_min", "sigma_max"):
        value = found.attributes.get(name)
        # EDMPrecond states the range it accepts, 0 to infinity, which says nothing about sampling.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            preferred[name] = Default(float(value), f"attribute of {found.class_name}")
    return _edm(weights, settings, preferred, ECT if found.class_name == "ECMPrecond" else EDM)


def _from_state(weights: Weights, settings: Settings) -> ConsistencyModel:
    found = recognize(weights.file.path, weights.tensors)
    stripped = strip(weights.file.path, weights.tensors, found.prefix)
    if weights.within is not None:
        settings.inferred("entry", weights.within, "file")
    if stripped.prefix:
        settings.inferred("prefix", stripped.prefix, "file")
    builder = _BUILDERS.get(found.format)
    if builder is None:
        raise CheckpointError(
            f"{weights.file.path}: holds {found.format} weights without their config.json; name the folder instead"
        )
    return builder(Weights(weights.file, weights.container, stripped.tensors, weights.within), settings)


def _openai(weights: Weights, settings: Settings) -> ConsistencyModel:
    return _adm(weights, settings, OPENAI, "openai")


def _ctm(weights: Weights, settings: Settings) -> ConsistencyModel:
    model = _adm(weights, settings, CTM, "ctm")
    assert isinstance(model.network, CtmUnet)
    model.network.c_noise_target = c_noise_at(model.c_noise, model.noise.sigma_min)
    return model


def _adm(weights: Weights, settings: Settings, family: Family, name: str) -> ConsistencyModel:
    path = weights.file.path
    shape = infer_shape(path, {key: tensor.shape for key, tensor in weights.tensors.items()})
    config = resolve_config(path, shape, settings)
    constants = resolve_sampling(settings, family, precond_from_flags(settings))
    chosen = settings.finish()
    network = build_adm_unet(path, config, weights.tensors, CtmUnet if family is CTM else AdmUnet)
    return assemble(
        network=network,
        architecture=architecture(config, "ctm_unet" if family is CTM else "adm_unet"),
        space=space_of(path, config.in_channels, config.image_size, 2 ** (len(config.channel_mult) - 1)),
        classes=config.num_classes,
        constants=constants,
        source=CheckpointSource(path, f"{name} ({weights.container})", weights.file.sha256, weights.file.size_bytes),
        settings=chosen,
    )


def _edm(
    weights: Weights,
    settings: Settings,
    preferred: Mapping[str, Default] = MappingProxyType({}),
    family: Family = ECT,
) -> ConsistencyModel:
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


_BUILDERS: Mapping[str, Callable[[Weights, Settings], ConsistencyModel]] = MappingProxyType(
    {"openai": _openai, "ctm": _ctm, "edm": _edm}
)
