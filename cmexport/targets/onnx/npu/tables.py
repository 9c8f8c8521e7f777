"""Tables that labels look up: 16-bit codes with one step, and nothing but moves until a layer reads a row.

HTP's Gather takes codes and no floats. The tool has no form for a table, whose rows must keep the table's own step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

_MOVING = frozenset({"Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})
_LAST = (1 << 16) - 1


@dataclass(frozen=True)
class Table:
    """A stored table, value = step (code - zero_point), and what becomes of its rows.

    Attributes:
        name: of the initializer.
        step: float32.
        zero_point: from 0 to 65,535.
        nodes: names of the nodes that look rows up and move them.
        rows: names of what those nodes write.
    """

    name: str
    step: np.float32
    zero_point: int
    nodes: tuple[str, ...]
    rows: tuple[str, ...]


def find_tables(model: onnx.ModelProto) -> tuple[Table, ...]:
    """Every float initializer that a Gather reads, in the graph's order."""
    stored = {i.name: i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    names = dict.fromkeys(n.input[0] for n in model.graph.node if n.op_type == "Gather" and n.input[0] in stored)
    return tuple(_table(model, stored[name]) for name in names)


def _table(model: onnx.ModelProto, stored: onnx.TensorProto) -> Table:
    values = numpy_helper.to_array(stored)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = np.float32(max((high - low) / _LAST, 1e-12))
    nodes: list[str] = []
    rows = {stored.name: None}
    for node in model.graph.node:
        if node.op_type in _MOVING and node.input[0] in rows:
            nodes.append(node.name)
            rows |= dict.fromkeys(node.output)
    zero = min(max(round(-low / float(step)), 0), _LAST)
    return Table(stored.name, step, zero, tuple(nodes), tuple(name for name in rows if name != stored.name))


def pair_tables(model: onnx.ModelProto, tables: tuple[Table, ...]) -> None:
    """Store the tables' codes and put pairs between the nodes that move their rows, in place.

    Rows that layers read have theirs by now, with the table's step.
    """
    graph = model.graph
    for table in tables:
        stored = next(i for i in graph.initializer if i.name == table.name)
        codes = np.clip(np.round(numpy_helper.to_array(stored) / table.step) + table.zero_point, 0, _LAST)
        step, zero = f"{table.name}_step", f"{table.name}_zero"
        graph.initializer.append(numpy_helper.from_array(np.asarray(table.step), step))
        graph.initializer.append(numpy_helper.from_array(np.array(table.zero_point, np.uint16), zero))
        graph.initializer.append(numpy_helper.from_array(codes.astype(np.uint16), f"{table.name}_codes"))
        reads = {f"{table.name}_codes": table.name}
        movers = [n for n in graph.node if n.name in table.nodes]
        for name in [name for name in table.rows if any(n.input[0] == name for n in movers)]:
            graph.node.append(helper.make_node("QuantizeLinear", [name, step, zero], [f"{name}_codes"]))
            reads[f"{name}_codes"] = name
        for source, name in reads.items():
            graph.node.append(helper.make_node("DequantizeLinear", [source, step, zero], [f"{name}_read"]))
            for node in movers:
                if node.input[0] == name:
                    node.input[0] = f"{name}_read"
        graph.initializer.remove(stored)
