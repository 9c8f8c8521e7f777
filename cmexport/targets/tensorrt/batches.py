"""The same typed ONNX for another batch.

A captured graph has its batch in every shape. One engine for each batch, and not one with a profile for each, since
TensorRT plans kernels and memory for a static shape best (dynamic engines of diffusion networks are known to be slower,
or not to build), and since an app knows its batch. The second ONNX file costs no second capture and no second planning:
the precisions, scales and casts are the first one's, so that both give the same pictures.

A graph captured for one picture is shaped for one: what depends on the label needs no axis for pictures there. So of
several batches one above 1 is captured, and the graph for one picture is made from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from cmexport.errors import BackendError, first_line
from cmexport.onnxfile.writing import write_model
from cmexport.signature.known import picture_axis


def batch_name(name: str, batch: int) -> str:
    """What files for another batch are called."""
    return f"{name}-b{batch}"


def batch_of_name(stem: str) -> int | None:
    """The batch of a file that `batch_name` named; None for one that has the graph's own, and is the only one."""
    name, _, batch = stem.rpartition("-b")
    return int(batch) if name and batch.isdigit() else None


def rebatch(path: Path, name: str, batch: int) -> tuple[str, ...]:
    """Write the model of `path` for another batch, beside it, as `<name>.onnx`.

    Every tensor that depends on an input has the pictures on its first axis (heads may share it), so a Reshape's first
    number grows with the batch, and no other does. All shapes are inferred anew, and have to agree.

    Returns:
        The names of the files written.

    Raises:
        BackendError: the graph isn't of that form.
        OSError: a file can't be written.
    """
    model = ir.load(path)
    graph = model.graph
    old = _pictures(graph.inputs[0])
    if old == 1:
        raise BackendError(f"--batch {batch}: this graph is shaped for one picture; export for several batches at once")
    for value in graph.inputs:
        _set_pictures(value, batch)
    borders = [(value, _sides(value)) for value in graph.outputs]
    for node in list(graph):
        if node.op_type == "Reshape":
            _reshape(graph, node, old, batch)
        elif node.op_type in ("Expand", "Tile"):
            raise BackendError(f"--batch {batch}: {node.name} ({node.op_type}) holds the batch; export each one apart")
    for value in [v for node in graph for v in node.outputs]:
        value.shape = None
    for value, sides in borders:
        value.shape = ir.Shape([batch, *sides[1:]])
    target = path.with_name(f"{name}.onnx")
    if path.with_name(f"{path.name}.data").is_file():
        ir.save(model, target, external_data=f"{target.name}.data")
        files: tuple[str, ...] = (target.name, f"{target.name}.data")
    else:
        write_model(model, target)
        files = (target.name,)
    try:
        # Infers every shape again, and compares the picture's with the one that is declared.
        onnx.checker.check_model(str(target), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        for file in files:
            path.with_name(file).unlink()
        raise BackendError(
            f"--batch {batch}: this graph can't be made for another batch ({first_line(error)}); export each one apart"
        ) from error
    return files


def _sides(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return list(value.shape.numpy())


def _pictures(value: ir.Value) -> int:
    return _sides(value)[picture_axis(value.name or "")]


def _set_pictures(value: ir.Value, batch: int) -> None:
    shape = _sides(value)
    shape[picture_axis(value.name or "")] = batch
    value.shape = ir.Shape(shape)


def _reshape(graph: ir.Graph, node: ir.Node, old: int, batch: int) -> None:
    target = node.inputs[1]
    if target is None or target.const_value is None:
        raise BackendError(f"--batch {batch}: {node.name} computes its shape; export each batch apart")
    shape = [int(side) for side in target.const_value.numpy()]
    if shape[0] % old:
        raise BackendError(f"--batch {batch}: {node.name} doesn't start with the batch; export each batch apart")
    # 0 copies the size of the input, -1 takes what is left: both follow by themselves.
    if shape[0] > 0:
        shape[0] = shape[0] // old * batch
    node.replace_input_with(1, _vector(graph, shape))


def _vector(graph: ir.Graph, numbers: Sequence[int]) -> ir.Value:
    name = "shape_" + "_".join(str(n).replace("-", "m") for n in numbers)
    if name in graph.initializers:
        return graph.initializers[name]
    content = np.asarray(numbers, np.int64)
    value = ir.Value(
        name=name,
        shape=ir.Shape(content.shape),
        type=ir.TensorType(ir.DataType.INT64),
        const_value=ir.Tensor(content, name=name),
    )
    graph.register_initializer(value)
    return value
