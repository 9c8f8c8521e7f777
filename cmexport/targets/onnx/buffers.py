"""Nodes with no more inputs and outputs than a shader may bind: for WebGPU.

WebGPU guarantees a shader 8 storage buffers (maxStorageBuffersPerShaderStage; most adapters have 10), and ONNX Runtime
binds each output of a Split to one of them, its input to another; the sizes are read on the CPU. The demo's row of the
label table is split into 42: "Too many storage buffers in shader". In groups, and each group again, every node keeps to
the limit; nothing is computed otherwise.
https://www.w3.org/TR/webgpu/#limits
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import onnx_ir as ir

_T = TypeVar("_T")


def limit_buffers(model: ir.Model, most: int) -> int:
    """Take Splits and Concats with more than `most` inputs and outputs apart, in place, in all graphs.

    Returns:
        How many were.
    """
    done = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        assert isinstance(graph, ir.Graph)
        for node in list(graph):
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type == "Split" and 1 + len(node.outputs) > most:
                _split_in_groups(graph, node, most - 1)
                done += 1
            elif node.op_type == "Concat" and len(node.inputs) + 1 > most:
                _join_in_groups(graph, node, most - 1)
                done += 1
    return done


def _split_in_groups(graph: ir.Graph, node: ir.Node, fan: int) -> None:
    source = node.inputs[0]
    assert source is not None
    axis = node.attributes.get_int("axis", 0)
    widths = _widths(node, axis)
    made: list[ir.Node] = []

    def part(value: ir.Value, parts: Sequence[tuple[ir.Value, int]]) -> None:
        groups = _groups(parts, fan)
        found = [g[0][0] if len(g) == 1 else ir.Value(type=source.type) for g in groups]
        # The first output's name, made unique by its number: values need one each.
        for number, value_ in enumerate(found):
            if value_.name is None:
                value_.name = f"{node.outputs[0].name}_group_{len(made)}_{number}"
        sizes = [sum(width for _, width in g) for g in groups]
        split = ir.Node(
            "",
            "Split",
            [value, _constant(graph, f"{node.outputs[0].name}_sizes_{len(made)}", sizes)],
            [ir.AttrInt64("axis", axis)],
            outputs=found,
        )
        made.append(split)
        for group, joined in zip(groups, found, strict=True):
            if len(group) > 1:
                part(joined, group)

    old = list(node.outputs)
    new = [ir.Value(name=o.name, type=o.type, shape=o.shape) for o in old]
    part(source, list(zip(new, widths, strict=True)))
    _exchange(graph, node, made, old, new)


def _join_in_groups(graph: ir.Graph, node: ir.Node, fan: int) -> None:
    axis = node.attributes.get_int("axis", 0)
    made: list[ir.Node] = []

    def join(values: Sequence[ir.Value], into: ir.Value) -> None:
        inputs = []
        for number, group in enumerate(_groups(values, fan)):
            joined = group[0]
            if len(group) > 1:
                joined = ir.Value(name=f"{into.name}_group_{number}", type=into.type)
                join(group, joined)
            inputs.append(joined)
        made.append(ir.Node("", "Concat", inputs, [ir.AttrInt64("axis", axis)], outputs=[into]))

    (old,) = node.outputs
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    join([value for value in node.inputs if value is not None], new)
    _exchange(graph, node, made, [old], [new])


def _groups(parts: Sequence[_T], fan: int) -> list[list[_T]]:
    """Make at most `fan` groups of nearly the same length, in order; groups of one where there are no more parts."""
    count = min(fan, len(parts))
    bounds = [round(i * len(parts) / count) for i in range(count + 1)]
    return [list(parts[low:high]) for low, high in pairwise(bounds)]


def _widths(node: ir.Node, axis: int) -> list[int]:
    sizes = node.inputs[1] if len(node.inputs) > 1 else None
    if sizes is not None and sizes.const_value is not None:
        return [int(size) for size in sizes.const_value.numpy()]
    shapes = [output.shape for output in node.outputs]
    if any(shape is None for shape in shapes):
        raise AssertionError(f"{node.name}: a Split whose sizes are not known")
    return [int(shape[axis]) for shape in shapes if shape is not None]  # type: ignore[arg-type]


def _constant(graph: ir.Graph, name: str, numbers: Sequence[int]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.Tensor(np.asarray(numbers, np.int64), name=name))
    value.shape, value.type = ir.Shape([len(numbers)]), ir.TensorType(ir.DataType.INT64)
    graph.register_initializer(value)
    return value


def _exchange(
    graph: ir.Graph, node: ir.Node, made: Sequence[ir.Node], old: Sequence[ir.Value], new: Sequence[ir.Value]
) -> None:
    graph.insert_before(node, made)
    for before, after in zip(old, new, strict=True):
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove(node, safe=True)
