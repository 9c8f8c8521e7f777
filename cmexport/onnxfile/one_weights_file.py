"""Weights of one or several model files in one file beside them, each at the beginning of a page and each once.

An app maps the file once, whichever of its graphs it opens; ONNX Runtime maps external weights without a copy where
they begin at a page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

PAGE = 4096
"""Bytes of a page; offsets are multiples of it (onnx/onnx, docs/ExternalData.md)."""

# Below it the description of where a weight lies is as long as the weight.
_LEAST_BYTES = 1024


def gather_weights(paths: Sequence[Path], weights: Path) -> None:
    """Move the weights of all models, which lie in one folder, into the new file `weights`.

    Raises:
        OSError: a file can't be read or written.
    """
    before: set[Path] = set()
    places: dict[str, int] = {}
    with weights.open("wb") as file:
        for path in paths:
            model = ir.load(path)
            tensors = [value.const_value for value in model.graph.initializers.values()]
            before.update(Path(t.path) for t in tensors if isinstance(t, ir.ExternalTensor))
            _move(model, file, weights, places)
            file.flush()
            onnx.save(ir.to_proto(model), path)
            onnx.checker.check_model(str(path), full_check=False)
    for path in before:
        path.unlink()


def write_beside(model: ir.Model, path: Path, weights: Path) -> None:
    """Write `model` to `path` and its weights to the new file `weights` in the same folder, one after the other.

    The model keeps its weights where they were.

    Raises:
        OSError: a file can't be written.
    """
    initializers = [v for g in (model.graph, *model.graph.subgraphs()) for v in g.initializers.values()]
    kept = [value.const_value for value in initializers]
    try:
        with weights.open("wb") as file:
            _move(model, file, weights, {})
        onnx.save(ir.to_proto(model), path)
    finally:
        for value, tensor in zip(initializers, kept, strict=True):
            value.const_value = tensor


def _move(model: ir.Model, file: BinaryIO, weights: Path, places: dict[str, int]) -> None:
    """Write the weights of `model` that are not in `places` yet, by their hashes, and let it refer to `weights`."""
    for value in [v for g in (model.graph, *model.graph.subgraphs()) for v in g.initializers.values()]:
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _LEAST_BYTES:
            continue
        content = tensor.tobytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in places:
            file.write(b"\0" * (-file.tell() % PAGE))
            places[key] = file.tell()
            file.write(content)
        value.const_value = ir.ExternalTensor(
            weights.name,
            places[key],
            len(content),
            tensor.dtype,
            shape=tensor.shape,  # type: ignore[arg-type]  # static
            name=str(value.name),
            base_dir=weights.parent,
        )
