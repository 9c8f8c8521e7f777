"""Weights alone in 8 or 4 bits, for the file's size: integers and their scales, and DequantizeLinear in front of use.

8 bits are symmetric with one scale per output channel. 4 bits have one scale per block of 32 along the channels that a
product sums over (blocks came with opset 21): one scale per channel alone leaves the demo model 32 dB.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

LEAST_ELEMENTS = 1024
BLOCK = 32
BLOCKED_OPSET = 21
# Operators whose second input is a weight, with its axes of output channels and of summed channels.
_WEIGHTED = {"Conv": (0, 1), "MatMul": (1, 0), "Attention": (1, 0)}


@dataclass(frozen=True)
class StoredReport:
    """How many weights were stored in how many bits."""

    tensors: int
    elements: int
    bits: int


def store_weights(model: ir.Model, bits: int) -> StoredReport:
    """Replace weights of at least `LEAST_ELEMENTS` numbers by `bits`-bit integers (8 or 4) in place.

    A summed axis that 32 does not divide keeps 8 bits.
    """
    graph = model.graph
    done: dict[ir.Value, ir.Value] = {}
    elements = 0
    for node in list(graph):
        if node.op_type == "Gather":
            _halve_table(graph, node)
        axes = _axes(node)
        weight = node.inputs[1] if axes and len(node.inputs) > 1 else None
        if axes is None or weight is None or weight.const_value is None or weight.const_value.size < LEAST_ELEMENTS:
            continue
        if weight not in done:
            numbers = weight.const_value.numpy()
            if bits == 4 and numbers.shape[axes[1]] % BLOCK == 0:
                done[weight] = _blocked(graph, node, weight, numbers, axes[1])
            else:
                done[weight] = _per_channel(graph, node, weight, numbers, axes[0])
            elements += numbers.size
        node.replace_input_with(1, done[weight])
    for value in done:
        if not value.uses():
            del graph.initializers[value.name or ""]
    if bits == 4:
        model.opset_imports[""] = max(model.opset_imports[""], BLOCKED_OPSET)
    return StoredReport(len(done), elements, bits)


def _axes(node: ir.Node) -> tuple[int, int] | None:
    if node.op_type == "Gemm":
        transposed = node.attributes.get_int("transB", 0)
        return (0, 1) if transposed else (1, 0)
    return _WEIGHTED.get(node.op_type)


def _steps(groups: npt.NDArray[np.float32], top: int) -> npt.NDArray[np.float32]:
    """Size of one step for each group of weights along the last axis: their own where they lie on a grid already.

    Weights rounded by least squares need not use the last code; all others get the step that gives it to the largest.
    """
    largest = np.maximum(np.abs(groups).max(axis=-1), np.float32(1e-12))
    steps = (largest / top).astype(np.float32)
    unknown = np.ones(steps.shape, bool)
    for code in range(top, top // 2, -1):
        step = (largest / code).astype(np.float32)
        codes = groups / step[..., None]
        fits = unknown & (np.abs(codes - np.rint(codes)).max(axis=-1) < 1e-3)
        steps[fits] = step[fits]
        unknown &= ~fits
    return steps


def _per_channel(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: npt.NDArray[np.float32], axis: int
) -> ir.Value:
    scale = _steps(np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1), 127)
    shape = [1] * numbers.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(numbers / scale.reshape(shape)), -127, 127).astype(np.int8)
    return _dequantized(graph, node, weight, ir.Tensor(codes), scale, {"axis": axis})


def _blocked(graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: npt.NDArray[np.float32], axis: int) -> ir.Value:
    shape = numbers.shape
    split = (*shape[:axis], shape[axis] // BLOCK, BLOCK, *shape[axis + 1 :])
    blocks = numbers.reshape(split)
    scale = _steps(np.moveaxis(blocks, axis + 1, -1), 7)
    codes = np.clip(np.rint(blocks / np.expand_dims(scale, axis + 1)), -7, 7).reshape(shape)
    tensor = ir.Tensor(codes.astype(ml_dtypes.int4), dtype=ir.DataType.INT4)
    return _dequantized(graph, node, weight, tensor, scale, {"axis": axis, "block_size": BLOCK})


def _halve_table(graph: ir.Graph, node: ir.Node) -> None:
    """Store a table that rows are taken from in half precision: cast when they have been taken."""
    table, taken = node.inputs[0], node.outputs[0]
    if table is None or table.const_value is None or table.dtype != ir.DataType.FLOAT or taken.is_graph_output():
        return
    numbers = table.const_value.numpy()
    if numbers.size < LEAST_ELEMENTS or float(np.abs(numbers).max()) > np.finfo(np.float16).max:
        return
    name = f"{table.name}_half"
    if name not in graph.initializers:
        half = ir.Tensor(numbers.astype(np.float16))
        stored = ir.Value(name=name, shape=table.shape, type=ir.TensorType(ir.DataType.FLOAT16), const_value=half)
        graph.register_initializer(stored)
    wide = ir.node("Cast", [taken], {"to": ir.DataType.FLOAT}, name=f"{taken.name}_cast")
    wide.outputs[0].name, taken.name = taken.name, f"{taken.name}_half"
    wide.outputs[0].shape, wide.outputs[0].dtype, taken.dtype = taken.shape, ir.DataType.FLOAT, ir.DataType.FLOAT16
    for user, index in list(taken.uses()):
        if user is not wide:
            user.replace_input_with(index, wide.outputs[0])
    node.replace_input_with(0, graph.initializers[name])
    graph.insert_after(node, wide)
    if not table.uses():
        del graph.initializers[table.name or ""]


def _dequantized(
    graph: ir.Graph,
    node: ir.Node,
    weight: ir.Value,
    codes: ir.TensorProtocol,
    scale: npt.NDArray[np.float32],
    attributes: dict[str, int],
) -> ir.Value:
    stored = ir.Value(
        name=f"{weight.name}_codes", shape=weight.shape, type=ir.TensorType(codes.dtype), const_value=codes
    )
    steps = ir.Value(
        name=f"{weight.name}_scale",
        shape=ir.Shape(scale.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.Tensor(scale),
    )
    graph.register_initializer(stored)
    graph.register_initializer(steps)
    made = ir.node("DequantizeLinear", [stored, steps], attributes, name=f"{weight.name}_dequantize")
    made.outputs[0].name = f"{weight.name}_read"
    made.outputs[0].shape, made.outputs[0].dtype = weight.shape, ir.DataType.FLOAT
    graph.insert_before(node, made)
    return made.outputs[0]
