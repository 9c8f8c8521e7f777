"""Write a finished ONNX model: names that are a contract, the file, the checker's word on it, facts inside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from cmexport.errors import BackendError
from cmexport.memory import return_free_memory
from cmexport.onnxfile.one_weights_file import write_beside
from cmexport.onnxfile.writing import write_model
from cmexport.signature import Signature

# Protobuf refuses messages of 2 GiB, and a runtime reads weights inside the model twice where it maps those beside it.
EXTERNAL_DATA_BYTES = 1_000_000_000

# Looking for free memory takes 0.1 s.
_WORTH_RETURNING = 100_000_000

_IR_VERSION = 9
_FOUR_BITS_VERSION = 10


def save(model: ir.Model, signature: Signature, path: Path, *, keep_weights: bool = False) -> tuple[str, ...]:
    """Name the border as `signature` does, drop what nothing uses, write `path` and check what was written.

    The model has lost its weights afterwards, unless `keep_weights`: checking reads the file into memory twice, which
    was the peak of an export of ImageNet-64 in half precision (3.5 GB).

    Returns:
        The files' names: the model and, beyond 1 GB, `<name>.onnx.data` with its weights.

    Raises:
        BackendError: the written file is not valid ONNX.
        OSError: the file can't be written.
    """
    _name_border(model, signature)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.RemoveUnusedOpsetsPass()(model)
    common_passes.NameFixPass()(model)
    model.ir_version = ir_version_for(model)
    files = _save(model, path)
    if not keep_weights:
        for value in model.graph.initializers.values():
            value.const_value = None
        if path.stat().st_size > _WORTH_RETURNING:
            return_free_memory()
    _check(path)
    return files


def ir_version_for(model: ir.Model) -> int:
    """Return the oldest version of the file format that has everything in the model.

    The exporter writes 10, which ONNX Runtime 1.17 and older refuse ("Unsupported model IR version: 10, max supported
    IR version: 9"), although they have every operator of opset 20. All that 10 brought and that is used here are the
    4-bit types; 9 brought the 8-bit floats.
    """
    graphs = (model.graph, *model.graph.subgraphs())
    types = {v.const_value.dtype for g in graphs for v in g.initializers.values() if v.const_value is not None}
    outputs = (value.dtype for node in model.graph.all_nodes() for value in node.outputs)
    types |= {dtype for dtype in outputs if dtype is not None}
    return _FOUR_BITS_VERSION if types & {ir.DataType.INT4, ir.DataType.UINT4} else _IR_VERSION


def _name_border(model: ir.Model, signature: Signature) -> None:
    """Names are a contract; the exporter's metadata would put paths of this machine into the file."""
    names = (*signature.names, signature.output.name)
    for value, name in zip((*model.graph.inputs, *model.graph.outputs), names, strict=True):
        value.name = name
    model.producer_name, model.producer_version = "cmexport", version("cmexport")
    model.graph.name = "consistency_sampler"
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _save(model: ir.Model, path: Path) -> tuple[str, ...]:
    graphs = (model.graph, *model.graph.subgraphs())
    weights = sum(v.const_value.nbytes for g in graphs for v in g.initializers.values() if v.const_value is not None)
    if weights > EXTERNAL_DATA_BYTES:
        external = path.with_name(f"{path.name}.data")
        write_beside(model, path, external)
        return (path.name, external.name)
    write_model(model, path)
    return (path.name,)


def _check(path: Path) -> None:
    """Run the ONNX checker on the written file, never on the object it was written from."""
    try:
        onnx.checker.check_model(str(path), full_check=False)
    except onnx.checker.ValidationError as error:
        raise BackendError(f"{path.name}: the ONNX checker refuses the written file: {error}") from error


def stamp(folder: Path, files: tuple[str, ...], facts: dict[str, str]) -> None:
    """Append facts to the model's `metadata_props`.

    Protobuf messages merge by concatenation, so this adds a few kilobytes instead of rewriting gigabytes.
    """
    proto = onnx.ModelProto()
    for key, value in facts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    with (folder / files[0]).open("ab") as file:
        file.write(proto.SerializeToString())
    _check(folder / files[0])
