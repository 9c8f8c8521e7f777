"""`.onnx` as a container of weights: the protobuf is parsed, nothing in it is run, what it claims is checked first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmexport.checkpoints.reading import FileFacts, facts_of_all, file_facts
from cmexport.errors import CheckpointError, first_line
from cmexport.runner import Array

if TYPE_CHECKING:
    import onnx

# Protobuf itself can't hold more; larger models keep their weights outside.
_MOST_BYTES = 2**31 - 1
# A UNet of 256 pixels exported plainly has 6,000.
_MOST_NODES = 50_000
_MOST_ELEMENTS = 2**31


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A parsed ONNX file whose weights all lie in `model`, whatever file they came from.

    Attributes:
        facts: of the file, and of the files that its weights lie in besides.
        model: `onnx.ModelProto`, one graph of standard operators without subgraphs.
        constants: initializers and the values of Constant nodes, by name.
    """

    facts: FileFacts
    model: Any
    constants: Mapping[str, Array]

    @property
    def nodes(self) -> list[Any]:
        """The nodes that compute something, in the graph's order."""
        return [node for node in self.model.graph.node if node.op_type != "Constant"]

    @property
    def metadata(self) -> dict[str, str]:
        """What the exporter wrote of the model, `metadata_props`."""
        return {entry.key: entry.value for entry in self.model.metadata_props}

    @cached_property
    def producers(self) -> dict[str, Any]:
        """The node that makes each value."""
        return {name: node for node in self.nodes for name in node.output}

    @cached_property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of the inputs that are fed, by name; None for sides that are open."""
        given = [i for i in self.model.graph.input if i.name not in self.constants]
        return {
            i.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in i.type.tensor_type.shape.dim)
            for i in given
        }


def read_onnx(facts: FileFacts) -> OnnxFile:
    """Parse an ONNX file and fetch its weights.

    Raises:
        CheckpointError: damaged, larger than it may be, operators of its own, subgraphs, or weights outside its folder.
    """
    import onnx

    path = facts.path
    if facts.size_bytes > _MOST_BYTES:
        raise CheckpointError(f"{path}: {facts.size_bytes:,} bytes are more than an ONNX file can have")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own, whichever implementation is installed
        raise CheckpointError(f"{path}: is no readable ONNX file ({first_line(error)})") from error
    _check_model(path, model)
    tensors = list(_tensors(path, model))
    outside = _fetch_outside(path, [tensor for _, tensor in tensors])
    constants = {name: _array(path, name, tensor) for name, tensor in tensors}
    return OnnxFile(_all_facts(facts, outside), model, constants)


def _check_model(path: Path, model: onnx.ModelProto) -> None:
    import onnx

    graph = model.graph
    if not graph.node or not graph.input or not graph.output:
        raise CheckpointError(f"{path}: is an ONNX file without a graph (damaged or truncated)")
    if len(graph.node) > _MOST_NODES:
        raise CheckpointError(f"{path}: has {len(graph.node):,} nodes, which no network known here has")
    if len(model.functions):
        raise CheckpointError(
            f"{path}: brings operators of its own ({model.functions[0].name[:60]}), which are not run"
        )
    if graph.sparse_initializer:
        raise CheckpointError(f"{path}: holds sparse weights, which no network known here has")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise CheckpointError(
                f"{path}: {named(node)} is an operator of {node.domain[:60]}, not of ONNX; it is not run"
            )
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise CheckpointError(f"{path}: {named(node)} holds a graph of its own, which no network known here has")


def named(node: Any) -> str:
    """How messages call a node: its name, or its first output's, and its operator."""
    name = node.name or next(iter(node.output), "")
    return f"node '{name[:80]}' ({node.op_type[:40]})"


def _tensors(path: Path, model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in model.graph.initializer:
        yield tensor.name, tensor
    for node in model.graph.node:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is None or len(node.output) != 1:
                raise CheckpointError(f"{path}: {named(node)} is no tensor")
            yield node.output[0], value


def _fetch_outside(path: Path, tensors: list[onnx.TensorProto]) -> dict[str, FileFacts]:
    """Put weights that lie in other files into their tensors; facts of those files, by name."""
    import onnx

    found: dict[str, FileFacts] = {}
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        beside = path.parent / name
        # A name alone, and no link: weights lie beside their graph, or they are somebody else's file.
        if not name or "/" in name or "\\" in name or "\0" in name or name in (".", "..") or beside.is_symlink():
            raise CheckpointError(f"{path}: its weights lie in {name[:80]!r}, which is not a file beside it")
        if name not in found:
            found[name] = file_facts(beside)
        _fill(path, tensor, entries, found[name])
    return found


def _fill(path: Path, tensor: onnx.TensorProto, entries: Mapping[str, str], held: FileFacts) -> None:
    import onnx

    try:
        offset, width = int(entries.get("offset", 0)), _width(tensor.data_type)
        length = int(entries.get("length", width * math.prod(tensor.dims)))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: says of {tensor.name[:80]} nothing that can be read") from error
    expected = width * math.prod(tensor.dims)
    if offset < 0 or length != expected or offset + length > held.size_bytes:
        raise CheckpointError(
            f"{path}: {tensor.name[:80]} needs {expected:,} bytes at {offset:,} of {held.path.name}, "
            f"which has {held.size_bytes:,}"
        )
    with held.path.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _width(kind: int) -> int:
    import onnx

    return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize)


def _array(path: Path, name: str, tensor: onnx.TensorProto) -> Array:
    from onnx import numpy_helper

    if any(side < 0 for side in tensor.dims) or math.prod(tensor.dims) > _MOST_ELEMENTS:
        raise CheckpointError(f"{path}: {name[:80]} claims the shape {tuple(tensor.dims)}")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {name[:80]} is damaged: {first_line(error)[:160]}") from error


def _all_facts(facts: FileFacts, outside: Mapping[str, FileFacts]) -> FileFacts:
    if not outside:
        return facts
    parts = {facts.path.name: facts, **outside}
    return facts_of_all(facts.path, sorted(parts.items()))
