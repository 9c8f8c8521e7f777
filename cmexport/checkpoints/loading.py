"""`load_checkpoint`: the one way from a path to a `ConsistencyModel`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType

from cmexport.checkpoints import edm_family, sniff
from cmexport.checkpoints.boundary import require_boundary
from cmexport.checkpoints.choosing import SETTING, choose_set, several
from cmexport.checkpoints.diffusers_folder import (
    GivenWeights,
    fetch_from_hub,
    holds_diffusers,
    is_hub_id,
    load_folder,
)
from cmexport.checkpoints.diffusers_networks import read_state
from cmexport.checkpoints.edm import ECT, EDM
from cmexport.checkpoints.edm_pickle import EdmPickle, preconditioning_of, read_edm_pickle
from cmexport.checkpoints.embedded import embedded_settings
from cmexport.checkpoints.folders import accelerate_files
from cmexport.checkpoints.license import license_of
from cmexport.checkpoints.onnx_adm import read_denoiser
from cmexport.checkpoints.onnx_file import read_onnx
from cmexport.checkpoints.onnx_proof import require_agreement
from cmexport.checkpoints.own_module import is_module_reference, load_module
from cmexport.checkpoints.policy import build_policy
from cmexport.checkpoints.reading import (
    ONNX_CONTAINER,
    FileFacts,
    Weights,
    container_of,
    file_facts,
    find_weights,
    read_torch,
    read_trusted,
)
from cmexport.checkpoints.registered import with_registered
from cmexport.checkpoints.safe_pickle import PickleRefusedError
from cmexport.checkpoints.safetensors_file import read_safetensors
from cmexport.checkpoints.settings import Default, Settings, settings_for
from cmexport.checkpoints.sidecar import read_sidecar
from cmexport.checkpoints.single_file import load_single_file, single_file_in, single_file_of
from cmexport.checkpoints.weight_sets import weight_sets
from cmexport.checkpoints.workspace import read_workspace
from cmexport.demo import DEMO_SHA256
from cmexport.errors import CheckpointError
from cmexport.labels import KNOWN
from cmexport.model import ConsistencyModel, Setting
from cmexport.naming import model_name


def load_checkpoint(
    path: Path | str,
    overrides: Mapping[str, str] = MappingProxyType({}),
    *,
    trust: bool = False,
    weights: str | None = None,
) -> ConsistencyModel:
    """Read a checkpoint of any supported format.

    The network comes back in eval mode and float32. Every constant is listed in `settings` with its origin; those
    marked ambiguous are guesses that `--set` should confirm.

    Args:
        path: a checkpoint file, a diffusers folder, a hub id (`openai/diffusers-cd_imagenet64_l2`), or
            `my_module.py:build`, which is run. A `cmexport.toml` beside a file supplies constants.
        overrides: `--set` fields, name to text; see `KNOWN_SETTINGS`.
        trust: read the file with Python's full unpickler, which runs any code inside it.
        weights: which of several sets of weights, as `--weights` names it: a prefix, an entry, `ema`, a subfolder.
            None takes the averaged set of a certain pair, and says so in the setting `weights`.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or not a consistency model; the message names file and
            reason.
        UsageError: an override is unknown, malformed or contradicts the weights.
        BackendError: the format needs a library that is not installed.
    """
    model = _load(path, overrides, trust=trust, weights=weights)
    license_, origin = license_of(model.source.path)
    labels = KNOWN["cifar10"] if model.source.sha256 == DEMO_SHA256 and model.classes == 10 else ()
    return replace(model, source=replace(model.source, license=license_, license_origin=origin), labels=labels)


def _load(path: Path | str, overrides: Mapping[str, str], *, trust: bool, weights: str | None) -> ConsistencyModel:
    text, where = str(path), Path(path)
    if is_module_reference(text):
        return load_module(text, overrides)
    reference = ""
    if not where.exists() and is_hub_id(text):
        where, reference = fetch_from_hub(text, weights), text
    if where.is_dir():
        named = Path(text)
        model = require_boundary(_from_folder(where, settings_for(named, overrides), weights, reference))
        # A hub model's folder is named after a revision; the id has the model's name.
        return replace(model, source=replace(model.source, name=model_name(named)))
    sidecar = read_sidecar(where)
    settings = settings_for(where, overrides, sidecar.values)
    model = _from_file(file_facts(where), settings, trust, weights)
    if sidecar.architecture not in (None, model.architecture["name"]):
        raise CheckpointError(
            f"{where}: holds a {model.architecture['name']}, but {sidecar.path} names {sidecar.architecture}"
        )
    return require_boundary(model)


def _from_folder(folder: Path, settings: Settings, wanted: str | None, reference: str) -> ConsistencyModel:
    files = accelerate_files(folder)
    if not files or holds_diffusers(folder):
        return load_folder(folder, settings, wanted, reference=reference)
    # `accelerator.save_state` and the hub's mixin leave weights of any network, without what diffusers knows of it.
    names = [path.name.split(".")[0] for path in files]
    if wanted in names:
        file = files[names.index(str(wanted))]
    elif len(set(names)) > 1:
        raise several(folder, list(dict.fromkeys(names)))
    else:
        file = max(files, key=lambda path: path.suffix == ".safetensors")
    sidecar = settings_for(folder, {}, read_sidecar(file).values).sidecar
    settings = replace(settings, sidecar=sidecar)
    container, state = read_state(file_facts(file))
    facts, content = with_registered(file_facts(file), state)
    alone = content is state
    model = _from_content(facts, container, content, settings, None if alone and wanted in names else wanted)
    chosen = model.settings
    if alone and wanted in names:
        chosen = (*(s for s in chosen if s.name != SETTING), Setting(SETTING, wanted, f"--weights {wanted}"))
    return replace(model, source=replace(model.source, path=folder, reference=reference), settings=chosen)


def _from_file(facts: FileFacts, settings: Settings, trust: bool, wanted: str | None) -> ConsistencyModel:
    if trust:
        content = read_trusted(facts)
        return _from_state(facts, "trusted pickle", content, settings, wanted)
    kind = container_of(facts.path)
    if kind == "torch":
        if (workspace := read_workspace(facts)) is not None:
            return build_policy(workspace, settings, wanted)
        container, content = read_torch(facts)
        return _from_state(facts, container, content, settings, wanted)
    if kind == "safetensors":
        if (single := single_file_of(facts)) is not None:
            return load_single_file(single, settings, wanted)
        return _from_content(facts, kind, read_safetensors(facts.path), settings, wanted)
    if kind == "pickle":
        return _from_pickle(facts, settings, wanted)
    if kind == ONNX_CONTAINER:
        return _from_onnx(facts, settings, wanted)
    raise CheckpointError(
        f"{facts.path}: is no checkpoint: neither torch.save, nor a pickle, nor safetensors, nor an exporter to ONNX "
        "wrote it"
    )


def _from_onnx(facts: FileFacts, settings: Settings, wanted: str | None) -> ConsistencyModel:
    denoiser = read_denoiser(read_onnx(facts))
    settings.embedded = denoiser.settings
    model = _from_content(denoiser.file.facts, ONNX_CONTAINER, denoiser.tensors, settings, wanted)
    return require_agreement(denoiser, model)


def _from_state(
    facts: FileFacts, container: str, content: object, settings: Settings, wanted: str | None
) -> ConsistencyModel:
    if (single := single_file_in(facts, container, content)) is not None:
        return load_single_file(single, settings, wanted)
    settings.embedded = embedded_settings(content)
    return _from_content(facts, container, content, settings, wanted)


def _from_pickle(facts: FileFacts, settings: Settings, wanted: str | None) -> ConsistencyModel:
    networks = read_edm_pickle(facts)
    sets = weight_sets({entry: found.tensors for entry, found in networks.items()})
    if not sets:
        first = next(iter(networks.values()))
        sniff.refuse_unknown(facts.path, first.tensors)
    chosen = choose_set(facts.path, sets, wanted, settings)
    found = networks[chosen.within or ""]
    try:
        precond = preconditioning_of(found)
    except PickleRefusedError as error:
        raise CheckpointError(f"{facts.path}: {error}") from error
    if chosen.format != "edm":
        raise CheckpointError(f"{facts.path}: a pickled {found.class_name} with {chosen.format} weights is unknown")
    settings.inferred("entry", found.entry, "file")
    weights = Weights(facts, f"pickled {found.class_name}", chosen.tensors, found.entry)
    return edm_family.build(
        weights, settings, _pickled_constants(found, precond), ECT if found.class_name == "ECMPrecond" else EDM
    )


def _pickled_constants(found: EdmPickle, precond: Default) -> dict[str, Default]:
    preferred = {"precond": precond}
    for name in ("sigma_data", "sigma_min", "sigma_max"):
        value = found.attributes.get(name)
        # EDMPrecond states the range it accepts, 0 to infinity, which says nothing about sampling.
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            preferred[name] = Default(float(value), f"attribute of {found.class_name}")
    return preferred


def _from_content(
    facts: FileFacts, container: str, content: object, settings: Settings, wanted: str | None
) -> ConsistencyModel:
    if isinstance(content, Mapping):
        sniff.refuse_lone_unet(facts.path, content)
    sets = weight_sets(content)
    if not sets:
        # Says what the file is instead.
        sniff.refuse_unknown(facts.path, find_weights(facts, container, content).tensors)
    found = choose_set(facts.path, sets, wanted, settings)
    if found.within is not None:
        settings.inferred("entry", found.within, "file")
    if found.prefix:
        settings.inferred("prefix", found.prefix, "file")
    builder = sniff.FAMILIES[found.format].builder
    if not builder:
        folder = facts.path.parent
        if (folder / "config.json").is_file():
            return load_folder(folder, settings, given=GivenWeights(facts, found.tensors))
        raise CheckpointError(
            f"{facts.path}: holds {found.format} weights without the config.json of their network;\n"
            f"unet.save_config({str(folder)!r}) in the code that built the UNet2DModel writes it beside them"
        )
    built: ConsistencyModel = resolve_name(builder)(Weights(facts, container, found.tensors, found.within), settings)
    return built
