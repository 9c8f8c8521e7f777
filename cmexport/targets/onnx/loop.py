"""A looped sampler as one ONNX file: the network becomes the body of a Loop, the numbers of each turn a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cmexport.graph.looping import LEVEL, CapturedLoop

FLOAT, INT64, BOOL, UINT8 = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.UINT8


def wrap_loop(network: ir.Model, loop: CapturedLoop) -> ir.Model:
    """The whole sampler around the model of `loop.body`, whose graph is used up.

    The sample and what it carries stay in float32 between turns, whatever the network computes in. Its weights stay in
    its own graph: ONNX Runtime packs convolutions only where it finds their weights beside them.
    """
    plan, noise = loop.plan, loop.signature.sample
    picture = noise.shape
    kinds = {"float32": FLOAT, "int64": INT64}
    border = {spec.name: _value(spec.name, kinds[spec.dtype], spec.shape) for spec in loop.signature.inputs}
    body = _Part()
    turn, go_on = _value("turn", INT64, ()), _value("go_on", BOOL, ())
    sample, carried = _value("sample", FLOAT, picture), _value("carried", FLOAT, picture)
    numbers = [[e.c_in, *astuple(move)] for e, move in zip(plan.evaluations, plan.moves, strict=True)]
    row = body.op("Gather", [body.constant("turns", np.array(numbers, np.float32)), turn], FLOAT, (6,))
    scalars = body.split(row, 6)
    c_in, keep, carry, add, half_keep, half_add = scalars
    indices = body.constant("levels", np.array(plan.level_indices, np.int64)[:, None])
    fed = {
        **border,
        noise.name: body.op("Mul", [sample, c_in], FLOAT, picture),
        LEVEL: body.op("Gather", [indices, turn], INT64, (1,)),
    }
    answer = body.inline(network.graph, fed)

    def combine(*terms: tuple[ir.Value, ir.Value]) -> ir.Value:
        products = [body.op("Mul", [value, factor], FLOAT, picture) for value, factor in terms]
        total = products[0]
        for product in products[1:]:
            total = body.op("Add", [total, product], FLOAT, picture)
        return total

    following = combine((sample, keep), (carried, carry), (answer, add))
    half = combine((sample, half_keep), (answer, half_add))
    still = body.op("Identity", [go_on], BOOL, ())
    inside = body.graph([turn, go_on, sample, carried], [still, following, half], "evaluation")

    whole = _Part()
    sigma = whole.constant("sigma", np.array(plan.evaluations[0].sigma, np.float32))
    start = whole.op("Mul", [border[noise.name], sigma], FLOAT, picture)
    # Times zero, not a constant: the picture's shape may be too large to store for nothing.
    zero = whole.constant("zero", np.array(0.0, np.float32))
    nothing = whole.op("Mul", [border[noise.name], zero], FLOAT, picture)
    turns = whole.constant("evaluations", np.array(plan.steps, np.int64))
    looped = ir.node("Loop", [turns, None, start, nothing], {"body": inside}, num_outputs=2, name="sampler")
    for output, name in zip(looped.outputs, ("sampled", "left_over"), strict=True):
        output.name, output.dtype, output.shape = name, FLOAT, ir.Shape(picture)
    whole.nodes.append(looped)
    image = _finish(whole, looped.outputs[0], loop)
    graph = whole.graph(list(border.values()), [image], "sampler")
    graph.opset_imports.update(network.opset_imports)
    return ir.Model(graph, ir_version=network.ir_version)


def _finish(whole: _Part, sampled: ir.Value, loop: CapturedLoop) -> ir.Value:
    """Clamp, and bytes where they are asked for, as `sampling.samplers.to_bytes`."""
    shape, finished = loop.signature.sample.shape, loop.signature.output

    def scalar(name: str, number: float) -> ir.Value:
        return whole.constant(name, np.array(number, np.float32))

    image = sampled
    if loop.plan.clamp:
        image = whole.op("Clip", [image, scalar("lowest", -1.0), scalar("highest", 1.0)], FLOAT, shape)
    if not finished.is_bytes:
        return image
    image = whole.op("Add", [image, scalar("one", 1.0)], FLOAT, shape)
    image = whole.op("Mul", [image, scalar("half_range", 127.5)], FLOAT, shape)
    image = whole.op("Clip", [image, scalar("black", 0.0), scalar("white", 255.0)], FLOAT, shape)
    image = whole.op("Round", [image], FLOAT, shape)
    image = whole.op("Transpose", [image], FLOAT, finished.shape, perm=[0, 2, 3, 1])
    return whole.op("Cast", [image], UINT8, finished.shape, to=UINT8)


class _Part:
    """Nodes and constants of a graph being put together."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def constant(self, name: str, array: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> ir.Value:
        """Store a tensor in the graph, for its nodes to use."""
        tensor = ir.Tensor(array, name=name)
        value = _value(name, tensor.dtype, array.shape)
        value.const_value = tensor
        self.constants.append(value)
        return value

    def op(
        self, kind: str, inputs: Sequence[ir.Value], dtype: ir.DataType, shape: Sequence[int], **attributes: object
    ) -> ir.Value:
        """One operator with one result."""
        node = ir.node(kind, list(inputs), attributes)  # type: ignore[arg-type]
        self.nodes.append(node)
        output = node.outputs[0]
        output.name, output.dtype, output.shape = f"loop_{kind.lower()}_{len(self.nodes)}", dtype, ir.Shape(shape)
        return output

    def split(self, vector: ir.Value, count: int) -> list[ir.Value]:
        """The numbers of a vector, each (1,)."""
        node = ir.node("Split", [vector], {"axis": 0, "num_outputs": count}, num_outputs=count)
        self.nodes.append(node)
        for index, output in enumerate(node.outputs):
            output.name, output.dtype, output.shape = f"{vector.name}_{index}", FLOAT, ir.Shape((1,))
        return list(node.outputs)

    def inline(self, graph: ir.Graph, inputs: dict[str, ir.Value]) -> ir.Value:
        """Move a graph's nodes and weights here, reading `inputs`; its one result."""
        for value in graph.inputs:
            value.replace_all_uses_with(inputs[str(value.name)])
        result = graph.outputs[0]
        weights = list(graph.initializers.values())
        graph.inputs.clear()
        graph.outputs.clear()
        graph.initializers.clear()
        nodes = list(graph)
        graph.remove(nodes)
        self.nodes.extend(nodes)
        self.constants.extend(weights)
        for value in weights:
            value.metadata_props.clear()
        return result

    def graph(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], name: str) -> ir.Graph:
        """All of it as a graph."""
        return ir.Graph(inputs, outputs, nodes=self.nodes, initializers=self.constants, name=name, opset_imports={})


def _value(name: str, dtype: ir.DataType, shape: Sequence[int]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
