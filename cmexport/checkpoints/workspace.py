"""Workspace files of diffusion_policy and its descendants, read without running them: configuration and tensors.

`BaseWorkspace.save_checkpoint` writes `torch.save({"cfg", "state_dicts", "pickles"}, pickle_module=dill)`. The
configuration is a tree of OmegaConf's nodes, which become inert records here; of `pickles`, whose values are pickles
again, nothing is read. What a class of a configuration needs may be named; functions, code and everything else may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cmexport.checkpoints.reading import FileFacts, unsafe_error
from cmexport.checkpoints.safe_pickle import Foreign, Global, PickleRefusedError
from cmexport.checkpoints.torch_files import (
    TensorStub,
    UnsafeContentError,
    description_of,
    inspect_zip,
    is_expected,
    read_stubs,
)
from cmexport.errors import CheckpointError

_MARKS = (b"state_dicts", b"pickles", b"cfg")
# Nothing is imported whatever stands here; what is not here can't belong to a configuration, so that the file lies.
_CLASSES = ("omegaconf.", "typing.")
_NAMED = frozenset({"dill._dill._load_type", "_codecs.encode", "copyreg._reconstructor", "types.NoneType"})
_TYPES = frozenset({"object", "dict", "list", "tuple", "set", "int", "float", "str", "bool", "bytes"})
_MOST_DEPTH = 32
# The authors' own has 604.
_MOST_NODES = 100_000


@dataclass(frozen=True)
class Workspace:
    """What a workspace file holds of use.

    Attributes:
        file: the bytes.
        config: the configuration as plain data: dictionaries, lists, numbers, texts.
        described: the tensors of `state_dicts.model`, by name, not yet read.
    """

    file: FileFacts
    config: Mapping[str, Any]
    described: Mapping[str, TensorStub]

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Read the weights whose names begin so, without the prefix.

        Raises:
            CheckpointError: one is no floating-point tensor.
        """
        wanted = {name[len(prefix) :]: stub for name, stub in self.described.items() if name.startswith(prefix)}
        try:
            return read_stubs(self.file.path, wanted)
        except PickleRefusedError as error:
            raise CheckpointError(f"{self.file.path}: {error}") from error

    def said(self, *keys: str) -> Any:
        """Look a value of the configuration up; None where it says nothing.

        Raises:
            CheckpointError: the value is an expression of OmegaConf's that has no plain meaning.
        """
        found: Any = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return self._resolved(found, keys, _MOST_DEPTH)

    def _resolved(self, found: Any, keys: tuple[str, ...], depth: int) -> Any:
        if not isinstance(found, str) or "${" not in found:
            return None if found == "???" else found
        path = found[2:-1].split(".")
        alone = found.startswith("${") and found.endswith("}") and all(part.isidentifier() for part in path)
        if not depth or not alone:
            said = f"{'.'.join(keys)} = {found[:60]}"
            raise CheckpointError(f"{self.file.path}: its configuration says {said}, an expression")
        other: Any = self.config
        for key in path:
            other = other.get(key) if isinstance(other, Mapping) else None
        return self._resolved(other, keys, depth - 1)


def _is_allowed(name: Global) -> bool:
    """Whether a configuration beside weights may mention a name."""
    text = str(name)
    return (
        is_expected(name)
        or text in _NAMED
        or text.startswith(_CLASSES)
        or (name.module in ("builtins", "__builtin__") and name.name in _TYPES)
    )


def read_workspace(facts: FileFacts) -> Workspace | None:
    """Read a workspace file; None where the file is something else.

    Raises:
        CheckpointError: it is one, and damaged, or would run code.
    """
    path = facts.path
    try:
        _, description = description_of(path)
    except PickleRefusedError:
        # Of the format before torch 1.6, or damaged: whoever reads it next says so.
        return None
    if not all(mark in description for mark in _MARKS):
        return None
    try:
        content = inspect_zip(path, _is_allowed)
        if not isinstance(content, dict) or not {"cfg", "state_dicts", "pickles"} <= set(content):
            return None
        config = _Unwrapping().plain(content["cfg"])
    except UnsafeContentError as error:
        raise unsafe_error(path, error.imports) from error
    except PickleRefusedError as error:
        raise CheckpointError(f"{path}: {error}") from error
    states = content["state_dicts"]
    model = states.get("model") if isinstance(states, dict) else None
    if not isinstance(config, dict) or not isinstance(model, dict):
        raise CheckpointError(f"{path}: is a workspace file without a configuration, or without state_dicts.model")
    described = {name: stub for name, stub in model.items() if isinstance(name, str) and isinstance(stub, TensorStub)}
    return Workspace(facts, config, described)


class _Unwrapping:
    """From OmegaConf's nodes, and what is plain already, to dictionaries, lists, numbers and texts.

    Nodes are counted: lists that hold one list twice, thirty times over, are a billion.
    """

    def __init__(self) -> None:
        self.left = _MOST_NODES

    def plain(self, node: Any, depth: int = _MOST_DEPTH) -> Any:
        """Return a node's value.

        Raises:
            PickleRefusedError: too many, or too deep.
        """
        self.left -= 1
        if depth == 0 or self.left < 0:
            raise PickleRefusedError("its configuration is nested too deeply")
        if isinstance(node, Foreign):
            state = node.state if isinstance(node.state, dict) else {}
            # Containers hold `_content`, which is a text where all of it is one expression; others a value.
            return self.plain(state.get("_content", state.get("_val")), depth - 1)
        if isinstance(node, dict):
            return {key: self.plain(value, depth - 1) for key, value in node.items() if isinstance(key, str)}
        if isinstance(node, list | tuple):
            return [self.plain(value, depth - 1) for value in node]
        return node if isinstance(node, bool | int | float | str) else None
