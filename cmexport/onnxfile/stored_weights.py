"""Weights alone in 8 or 4 bits, for the file's size: integers and their scales, and DequantizeLinear in front of use.

8 bits are symmetric with one scale per output channel. 4 bits have one scale per block of 32 or 64 along the channels
that a product sums over (blocks came with opset 21): one scale per channel alone leaves the demo model 32 dB.

Of numbers that were rounded for the file already, scales and all other constants are in half precision too.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cmexport.onnxfile.constants import constant, half_steps, halve_constants, shrink_table, widened

LEAST_ELEMENTS = 1024
BLOCK = 32
BLOCKED_OPSET = 21
_GRID = 1e-3  # how far from whole numbers, in steps, float32 puts numbers of a grid
# What ONNX Runtime joins with a DequantizeLinear in front of it to MatMulNBits, whose default rounds the other factor
# to 8 bits as well ("accuracy level 4"): one step of lcm-emoji in w8 lost 7 dB by it, of 44.5. A cast in between
# prevents it.
_JOINED = ("MatMul", "Gemm")
# Operators whose second input is a weight, with its axes of output channels and of summed channels.
_WEIGHTED = {"Conv": (0, 1), "MatMul": (1, 0), "Attention": (1, 0)}


@dataclass(frozen=True)
class StoredReport:
    """How many weights were stored in how many bits."""

    tensors: int
    elements: int
    bits: int


def store_weights(model: ir.Model, bits: int, *, block: int = BLOCK, chosen: bool = False) -> StoredReport:
    """Replace weights of at least `LEAST_ELEMENTS` numbers by `bits`-bit integers (8 or 4) in place.

    A summed axis that `block` does not divide keeps 8 bits. `chosen`: the numbers were rounded for the file already,
    with steps in half precision, and those that no grid holds are to be kept in half precision.
    """
    graph = model.graph
    done: dict[ir.Value, ir.Value] = {}
    elements = 0
    for node in list(graph):
        if node.op_type == "Gather":
            shrink_table(graph, node, words_in_bytes=chosen)
        axes = _axes(node)
        weight = node.inputs[1] if axes and len(node.inputs) > 1 else None
        if axes is None or weight is None or weight.const_value is None or weight.const_value.size < LEAST_ELEMENTS:
            continue
        if weight not in done:
            numbers = weight.const_value.numpy()
            size = block if bits == 4 and numbers.shape[axes[1]] % block == 0 else None
            if chosen and not _on_grid(numbers, *axes, size):
                stored = constant(graph, f"{weight.name}_half", numbers.astype(np.float16))
                done[weight] = widened(graph, node, stored, f"{weight.name}_read")
            elif size is not None:
                done[weight] = _blocked(graph, node, weight, numbers, axes[1], size, halved=chosen)
            else:
                done[weight] = _per_channel(graph, node, weight, numbers, axes[0], halved=chosen)
            elements += numbers.size
        node.replace_input_with(1, done[weight])
    for value in done:
        if not value.uses():
            del graph.initializers[value.name or ""]
    if chosen:
        halve_constants(graph)
    if bits == 4:
        model.opset_imports[""] = max(model.opset_imports[""], BLOCKED_OPSET)
    return StoredReport(len(done), elements, bits)


def forget_shapes(model: ir.Model) -> None:
    """Leave out types and shapes of values inside the graph, which readers infer: 47 kB for each step of lcm-emoji."""
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None


def _axes(node: ir.Node) -> tuple[int, int] | None:
    if node.op_type == "Gemm":
        transposed = node.attributes.get_int("transB", 0)
        return (0, 1) if transposed else (1, 0)
    return _WEIGHTED.get(node.op_type)


def _on_grid(numbers: npt.NDArray[np.float32], outputs: int, summed: int, block: int | None) -> bool:
    if block is not None:
        shape = numbers.shape
        blocks = numbers.reshape(*shape[:summed], shape[summed] // block, block, *shape[summed + 1 :])
        groups, top = np.moveaxis(blocks, summed + 1, -1), 7
    else:
        groups, top = np.moveaxis(numbers, outputs, 0).reshape(numbers.shape[outputs], -1), 127
    codes = groups / _steps(groups, top)[..., None]
    return bool((np.abs(codes - np.rint(codes)).max(axis=-1) < _GRID).mean() > 0.5)


def _steps(groups: npt.NDArray[np.float32], top: int) -> npt.NDArray[np.float32]:
    """Size of one step for each group of weights along the last axis: their own where they lie on a grid already.

    Weights rounded by least squares need not use the last code; all others get the step that gives it to the largest.
    """
    largest = np.maximum(np.abs(groups).max(axis=-1), np.float32(1e-12))
    steps: npt.NDArray[np.float32] = (largest / top).astype(np.float32)
    unknown = np.ones(steps.shape, bool)
    for code in range(top, top // 2, -1):
        step = (largest / code).astype(np.float32)
        codes = groups / step[..., None]
        fits = unknown & (np.abs(codes - np.rint(codes)).max(axis=-1) < _GRID)
        steps[fits] = step[fits]
        unknown &= ~fits
    return steps


def _per_channel(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, numbers: npt.NDArray[np.float32], axis: int, *, halved: bool
) -> ir.Value:
    scale = _steps(np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1), 127)
    scale = half_steps(scale) if halved else scale
    shape = [1] * numbers.ndim
    shape[axis] = -1
    codes = np.clip(np.rint(numbers / scale.reshape(shape)), -127, 127).astype(np.int8)
    return _dequantized(graph, node, weight, ir.Tensor(codes), scale, {"axis": axis}, halved=halved)


def _blocked(
    graph: ir.Graph,
    node: ir.Node,
    weight: ir.Value,
    numbers: npt.NDArray[np.float32],
    axis: int,
    block: int,
    *,
    halved: bool,
) -> ir.Value:
    shape = numbers.shape
    split = (*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])
    blocks = numbers.reshape(split)
    scale = _steps(np.moveaxis(blocks, axis + 1, -1), 7)
    scale = half_steps(scale) if halved else scale
    codes = np.clip(np.rint(blocks / np.expand_dims(scale, axis + 1)), -7, 7).reshape(shape)
    tensor = ir.Tensor(codes.astype(ml_dtypes.int4), dtype=ir.DataType.INT4)
    return _dequantized(graph, node, weight, tensor, scale, {"axis": axis, "block_size": block}, halved=halved)


def _dequantized(
    graph: ir.Graph,
    node: ir.Node,
    weight: ir.Value,
    codes: ir.TensorProtocol,
    scale: npt.NDArray[np.float32],
    attributes: dict[str, int],
    *,
    halved: bool,
) -> ir.Value:
    stored = ir.Value(
        name=f"{weight.name}_codes", shape=weight.shape, type=ir.TensorType(codes.dtype), const_value=codes
    )
    graph.register_initializer(stored)
    name, wide = f"{weight.name}_read", ir.DataType.FLOAT
    half = scale.astype(np.float16)
    steps = constant(graph, f"{weight.name}_scale", half if halved and (half == scale).all() else scale)
    apart = steps.dtype != wide and node.op_type in _JOINED
    if steps.dtype != wide and not apart:
        steps = widened(graph, node, steps, f"{steps.name}_read")
    made = ir.node("DequantizeLinear", [stored, steps], attributes, name=f"{weight.name}_dequantize")
    out = made.outputs[0]
    out.shape, out.dtype = weight.shape, ir.DataType.FLOAT16 if apart else wide
    out.name = f"{weight.name}_narrow" if apart else name
    graph.insert_before(node, made)
    return widened(graph, node, out, name) if apart else out
