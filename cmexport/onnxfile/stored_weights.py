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


def _per_channel(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: npt.NDArray[np.float32], axis: int
) -> ir.Value:
    others = tuple(a for a in range(numbers.ndim) if a != axis)
    scale = np.maximum(np.abs(numbers).max(axis=others) / 127, np.float32(1e-12)).astype(np.float32)
    shape = [1] * numbers.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(numbers / scale.reshape(shape)), -127, 127).astype(np.int8)
    return _dequantized(graph, node, weight, ir.Tensor(codes), scale, {"axis": axis})


def _blocked(graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: npt.NDArray[np.float32], axis: int) -> ir.Value:
    shape = numbers.shape
    split = (*shape[:axis], shape[axis] // BLOCK, BLOCK, *shape[axis + 1 :])
    blocks = numbers.reshape(split)
    scale = np.maximum(np.abs(blocks).max(axis=axis + 1) / 7, np.float32(1e-12)).astype(np.float32)
    codes = np.clip(np.rint(blocks / np.expand_dims(scale, axis + 1)), -7, 7).reshape(shape)
    tensor = ir.Tensor(codes.astype(ml_dtypes.int4), dtype=ir.DataType.INT4)
    return _dequantized(graph, node, weight, tensor, scale, {"axis": axis, "block_size": BLOCK})


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
