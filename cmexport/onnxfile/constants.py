"""Constants in half precision or 8 bits, for the file's size, and widened where they are read.

ONNX Runtime folds the widening of constants when it opens a file, so it costs no time there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

LEAST_ELEMENTS = 128
"""Constants of fewer numbers save less in half precision than the node that widens them takes, about 100 bytes."""
LEAST_OF_TABLE = 1024
_LARGEST_HALF = float(np.finfo(np.float16).max)
_SMALLEST_HALF = float(np.finfo(np.float16).tiny)
_TOP = 127


def widened(graph: ir.Graph, before: ir.Node, stored: ir.Value, name: str) -> ir.Value:
    """Put a Cast of `stored` to float32 in front of a node and return its output, called `name`."""
    made = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{name}_widen")
    out = made.outputs[0]
    out.name, out.shape, out.dtype = name, stored.shape, ir.DataType.FLOAT
    graph.insert_before(before, made)
    return out


def constant(graph: ir.Graph, name: str, numbers: npt.NDArray[Any]) -> ir.Value:
    """Make an initializer of the graph out of numbers."""
    tensor = ir.Tensor(numbers)
    made = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(made)
    return made


def fits_half(numbers: npt.NDArray[np.float32]) -> bool:
    """Tell whether half precision holds all numbers without overflow."""
    return float(np.abs(numbers).max()) <= _LARGEST_HALF


def half_steps(steps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round sizes of steps to half precision, where it holds them with all its digits; float32."""
    near = np.minimum(steps, _LARGEST_HALF).astype(np.float16).astype(np.float32)
    return np.where((near >= _SMALLEST_HALF) & (steps <= _LARGEST_HALF), near, steps).astype(np.float32)


def halve_constants(graph: ir.Graph) -> None:
    """Store every float32 constant of at least `LEAST_ELEMENTS` numbers that half precision can hold in it."""
    done: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        for index, value in enumerate(node.inputs):
            if value is None or not _is_long_float(value):
                continue
            if value not in done:
                assert value.const_value is not None
                stored = constant(graph, f"{value.name}_half", value.const_value.numpy().astype(np.float16))
                done[value] = widened(graph, node, stored, f"{value.name}_read")
            node.replace_input_with(index, done[value])
    for value in done:
        del graph.initializers[value.name or ""]


def _is_long_float(value: ir.Value) -> bool:
    if not value.is_initializer() or value.const_value is None or value.dtype != ir.DataType.FLOAT:
        return False
    numbers = value.const_value.numpy()
    return numbers.size >= LEAST_ELEMENTS and fits_half(numbers)


def shrink_table(graph: ir.Graph, node: ir.Node, *, words_in_bytes: bool = False) -> None:
    """Store the table that a Gather takes rows from in half precision; rows are widened when they have been taken.

    `words_in_bytes`: a table of words, of which each token of a sentence takes a row, in 8 bits instead, with a step
    for each row.
    """
    table, index, taken = node.inputs[0], node.inputs[1], node.outputs[0]
    if table is None or table.const_value is None or table.dtype != ir.DataType.FLOAT or taken.is_graph_output():
        return
    numbers = table.const_value.numpy()
    if numbers.size < LEAST_OF_TABLE or not fits_half(numbers):
        return
    if words_in_bytes and numbers.ndim == 2 and index is not None and index.shape is not None and len(index.shape) == 2:
        steps = half_steps(np.maximum(np.abs(numbers).max(axis=1, keepdims=True), _SMALLEST_HALF * _TOP) / _TOP)
        codes = np.clip(np.rint(numbers / steps), -_TOP, _TOP).astype(np.int8)
        stored: dict[str, npt.NDArray[Any]] = {f"{table.name}_codes": codes, f"{table.name}_steps": steps}
        parts = [_rows_of(graph, node, name, part) for name, part in stored.items()]
        product = ir.node("Mul", parts, name=f"{taken.name}_scaled")
        graph.insert_before(node, product)
        rows = product.outputs[0]
    else:
        rows = _rows_of(graph, node, f"{table.name}_half", numbers)
    for user, place in list(taken.uses()):
        user.replace_input_with(place, rows)
    name, rows.shape, rows.dtype = taken.name, taken.shape, ir.DataType.FLOAT
    graph.remove(node, safe=True)
    rows.name = name
    if not table.uses():
        del graph.initializers[table.name or ""]


def _rows_of(graph: ir.Graph, node: ir.Node, name: str, numbers: npt.NDArray[Any]) -> ir.Value:
    """Put in front of `node` the same Gather from another table, floats in half precision, and return float32 rows."""
    if numbers.dtype == np.float32:
        numbers = numbers.astype(np.float16)
    stored = graph.initializers.get(name) or constant(graph, name, numbers)
    taking = ir.node("Gather", [stored, *node.inputs[1:]], dict(node.attributes), name=f"{node.name}_{name}")
    taking.outputs[0].name = f"{node.outputs[0].name}_{name}"
    graph.insert_before(node, taking)
    return widened(graph, node, taking.outputs[0], f"{taking.outputs[0].name}_read")
