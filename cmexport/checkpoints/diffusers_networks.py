"""What every folder of diffusers needs: the library's networks without weights, files of weights, names of old ones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmexport.checkpoints.quiet import quiet_libraries
from cmexport.checkpoints.reading import FileFacts, container_of, read_torch, strict_weights
from cmexport.checkpoints.safetensors_file import read_safetensors
from cmexport.errors import BackendError, CheckpointError
from cmexport.networks.meta import ModuleT, on_meta

# Attention names before diffusers 0.17.
_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


def fields_of(name: str, where: Path) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of one of the library's networks, by name; `where` is the file that asks for it.

    Raises:
        BackendError: diffusers is not installed.
    """
    return inspect.signature(_class(name, where).__init__).parameters


def without_weights(name: str, where: Path, config: Mapping[str, Any]) -> nn.Module:
    """Build one of the library's networks without memory for its weights.

    Args:
        name: of the class.
        where: the file of the configuration, for messages.
        config: its arguments; others are left out.

    Raises:
        BackendError: diffusers is not installed.
        CheckpointError: the library can't build it.
    """
    factory, known = _class(name, where), fields_of(name, where)
    try:
        with quiet_libraries():
            network: nn.Module = on_meta(lambda: factory.from_config({k: v for k, v in config.items() if k in known}))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{where}: describes no {name} ({reason[0][:200]})") from error
    return network


def _class(name: str, where: Path) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise BackendError(f"{where}: diffusers folders need diffusers: pip install 'cmexport[diffusers]'") from error
    return getattr(diffusers, name)


def filled(network: ModuleT, where: Path, tensors: Mapping[str, Tensor]) -> ModuleT:
    """Give a network without weights exactly those that it asks for; returns it in eval mode, without gradients.

    Raises:
        CheckpointError: one is missing, too much, of another shape, or not finite.
    """
    expected = {key: value.shape for key, value in network.state_dict().items()}
    left = dict(tensors)
    del tensors
    network.load_state_dict(strict_weights(where, left, expected, emptied=True), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def read_state(facts: FileFacts) -> tuple[str, Any]:
    """Container and content of a file of weights in a folder of diffusers or accelerate.

    Raises:
        CheckpointError: damaged, or written by neither.
    """
    if facts.path.suffix == ".safetensors":
        return "safetensors", read_safetensors(facts.path)
    if container_of(facts.path) != "torch":
        raise CheckpointError(f"{facts.path}: torch.save did not write it")
    return read_torch(facts)


def read_flat_state(facts: FileFacts) -> Mapping[str, Tensor]:
    """Read a file that holds tensors by name and nothing else.

    Raises:
        CheckpointError: it holds something else; also see `read_state`.
    """
    content = read_state(facts)[1]
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{facts.path}: is no state dict written by torch.save")
    return content


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names that attention has today."""
    found = {}
    for key, tensor in tensors.items():
        for old, new in _OLD_NAMES:
            key = key.replace(old, new)
        found[key] = tensor
    return found
