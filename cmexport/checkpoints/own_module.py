"""Anyone's own network: `my_module.py:build` on the command line, `cmexport.load(network, spec)` in Python.

The network is called as `network(x, c_noise)` or `network(x, c_noise, label)`, x (N, C, H, W) float32, c_noise (1,)
float64, label (N,) int64, and returns (N, C, H, W). What it calls the third is its own affair.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.boundary import require_boundary
from cmexport.checkpoints.reading import finite
from cmexport.checkpoints.settings import Default, Family, Settings, parse_overrides, resolve_sampling
from cmexport.checkpoints.sidecar import as_text
from cmexport.checkpoints.sizes import space_of
from cmexport.errors import CheckpointError, UsageError
from cmexport.files import require_file
from cmexport.model import CheckpointSource, ConsistencyModel, Setting
from cmexport.naming import model_name

OWN = Family("a network without a file of its own")
_REFERENCE = re.compile(r"^(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)$")


def is_module_reference(text: str) -> bool:
    """Whether a checkpoint argument has the form `file.py:function`."""
    return _REFERENCE.match(text) is not None


def module_file(reference: str) -> Path | None:
    """Return the Python file that `file.py:function` names; None for anything else."""
    match = _REFERENCE.match(reference)
    return None if match is None else Path(match["file"]).absolute()


def load_module(reference: str, overrides: Mapping[str, str] = MappingProxyType({})) -> ConsistencyModel:
    """Run `file.py`, call its function, and wrap the network it returns (or the pair of network and spec).

    Naming a Python file is asking for it to be run; nothing else in this package runs code from a file.

    Raises:
        CheckpointError: the file is missing, fails, or returns no network.
        UsageError: a field of the spec is unknown or malformed.
    """
    match = _REFERENCE.match(reference)
    if match is None:
        raise UsageError(f"{reference}: write my_module.py:function")
    path, name = Path(match["file"]).absolute(), match["name"]
    require_file(path, "a Python file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    specification = importlib.util.spec_from_file_location(f"cmexport_user_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise CheckpointError(f"{path}: can't be imported as Python")
    module = importlib.util.module_from_spec(specification)
    # Its own folder comes first, so that it finds the files beside it.
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
        function = getattr(module, name, None)
        if function is None:
            raise CheckpointError(f"{path}: has no function '{name}'")
        built = function()
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: {name}() failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    network, spec = built if isinstance(built, tuple) and len(built) == 2 else (built, {})
    if not isinstance(network, nn.Module) or not isinstance(spec, Mapping):
        raise CheckpointError(f"{path}: {name}() returned {type(built).__name__}, not a torch.nn.Module")
    model = _wrap(network, spec, overrides, path, f"own module {path.name}:{name}", f"{path}:{name}")
    return replace(model, source=replace(model.source, name=model_name(f"{path}:{name}")))


def load(network: nn.Module, spec: Mapping[str, Any] = MappingProxyType({})) -> ConsistencyModel:
    """Turn a network in memory into a model that can be sampled and exported.

    Args:
        network: see this module's docstring. It is put into eval mode; half-precision weights are copied to float32.
        spec: constants under the names of `--set`, as values or text. `image_size` is required; `in_channels` defaults
            to 3, `num_classes` to none, everything else to openai/consistency_models' values, marked ambiguous.

    Raises:
        UsageError: a field is unknown, malformed, or `image_size` is missing.
        CheckpointError: the network can't be evaluated, or misses its boundary condition.
    """
    return _wrap(network, spec, {}, Path(type(network).__name__), f"network in memory ({type(network).__name__})")


def _wrap(
    network: nn.Module,
    spec: Mapping[str, Any],
    overrides: Mapping[str, str],
    path: Path,
    label: str,
    reference: str = "",
) -> ConsistencyModel:
    stated = {name: Default(value, "spec") for name, value in parse_overrides(_texts(spec)).items()}
    settings = Settings(parse_overrides(overrides))

    def field(name: str, fallback: Default) -> Any:
        return settings.choose(name, fallback, *([stated[name]] if name in stated else []))

    if "image_size" not in stated and "image_size" not in settings.overrides:
        raise UsageError(f"{path}: say the picture size: --set image_size=N (or HxW), or image_size in the spec")
    size = field("image_size", Default(None, ""))
    channels = field("in_channels", Default(3, "default"))
    classes = field("num_classes", Default(None, "default: no labels"))
    guesses = {
        name: Default(getattr(OWN, name), "guess", ambiguous=True)
        for name in ("precond", "c_noise", "sigma_data", "sigma_min", "sigma_max", "rho", "levels", "renoise", "clamp")
    }
    constants = resolve_sampling(settings, OWN, {**guesses, **stated})
    if unused := [name for name in stated if name not in settings.resolved]:
        raise UsageError(f"{unused[0]} in the spec: a network of your own has no such constant")
    chosen: tuple[Setting, ...] = settings.finish()
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in network.parameters()):
        network = copy.deepcopy(network).float()
    network = network.eval().requires_grad_(False)
    network.register_forward_pre_hook(_by_position, with_kwargs=True)
    digest, size_bytes = hashlib.sha256(), 0
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.is_floating_point():
            finite(path, name, tensor)
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(name.encode())
        digest.update(raw.data)
        size_bytes += raw.nbytes
    model = assemble(
        network=network,
        architecture={"name": f"{type(network).__module__}.{type(network).__qualname__}"},
        space=space_of(path, channels, size, 1),
        classes=classes,
        constants=constants,
        source=CheckpointSource(path, label, digest.hexdigest(), size_bytes, reference),
        settings=chosen,
    )
    return require_boundary(model, whole=True)


def _by_position(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Conditions are passed by name everywhere; others than we call them otherwise."""
    del network
    return (*given, *named.values()), {}


def _texts(spec: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): as_text(value) for name, value in spec.items() if value is not None}
