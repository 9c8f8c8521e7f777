"""Averages that training registered with accelerate: `custom_checkpoint_0.pkl` beside `model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cmexport.checkpoints.folders import registered_files
from cmexport.checkpoints.reading import FileFacts, container_of, facts_of_all, file_facts, read_torch
from cmexport.checkpoints.roles import AVERAGED, role_of
from cmexport.errors import CheckpointError


def with_registered(facts: FileFacts, content: Any) -> tuple[FileFacts, Any]:
    """Return a network's weights together with the averages beside them, if there are any.

    Args:
        facts: of the network's own file; the result's hash is over all files that were taken.
        content: what the file holds.

    Returns:
        The facts, and a dictionary of the content under its file's name and the averages under theirs; both arguments
        themselves where there is no average.
    """
    found: dict[str, Any] = {}
    files = [facts]
    for path in registered_files(facts.path.parent):
        try:
            beside = file_facts(path)
            registered = read_torch(beside)[1] if container_of(path) == "torch" else None
        except CheckpointError:
            continue  # Schedulers and data loaders are registered too, with classes of their own.
        if isinstance(registered, Mapping) and any(_is_average(key, value) for key, value in registered.items()):
            found[path.stem] = registered
            files.append(beside)
    if not found:
        return facts, content
    whole = facts_of_all(facts.path, ((f.path.name, f) for f in files))
    return whole, {facts.path.name.split(".")[0]: content, **found}


def _is_average(key: object, value: object) -> bool:
    tensors = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(tensors, list | tuple) or not tensors or role_of((str(key),)) != AVERAGED:
        return False
    return isinstance(tensors[0], Tensor)
