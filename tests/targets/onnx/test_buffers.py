"""WebGPU's shaders bind 8 buffers: no node of a file for browsers has more inputs and outputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from cmexport.model import SampleRequest
from cmexport.targets.onnx.buffers import limit_buffers
from cmexport.targets.onnx.info import OnnxOptions

RNG = np.random.default_rng(0)


def widest(graph: onnx.GraphProto) -> int:
    inner = [a.g for n in graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    # A Split's sizes are read on the CPU; a Loop binds nothing.
    bound = [n for n in graph.node if n.op_type not in ("Loop", "If")]
    own = [len(n.input) + len(n.output) - (n.op_type == "Split" and len(n.input) == 2) for n in bound]
    return max([*own, *map(widest, inner)])


def limited(proto: onnx.ModelProto, most: int = 8) -> onnx.ModelProto:
    model = ir.from_proto(proto)
    assert limit_buffers(model, most) == 1
    found = ir.to_proto(model)
    onnx.checker.check_model(found, full_check=True)
    assert widest(found.graph) <= most
    return found


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("count", [8, 9, 42, 50, 120])
def test_any_number_of_parts(count: int, axis: int) -> None:
    sizes = [1 + i % 3 for i in range(count)]
    shape = [2, 2]
    shape[axis] = sum(sizes)
    shapes = [[size if i == axis % 2 else 2 for i in range(2)] for size in sizes]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, s) for i, s in enumerate(shapes)]
    node = helper.make_node("Split", ["x", "sizes"], [o.name for o in outputs], axis=axis)
    constant = helper.make_tensor("sizes", TensorProto.INT64, [count], sizes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], outputs, [constant]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = RNG.standard_normal(shape).astype(np.float32)
    wanted = np.split(x, np.cumsum(sizes)[:-1], axis)
    found = onnx.reference.ReferenceEvaluator(limited(proto)).run(None, {"x": x})
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("count", [8, 30, 65])
def test_any_number_of_pieces(count: int) -> None:
    names = [f"x{i}" for i in range(count)]
    node = helper.make_node("Concat", names, ["y"], axis=1)
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 1 + i % 2]) for i, n in enumerate(names)]
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, count + count // 2])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    feeds = {n: RNG.standard_normal((2, 1 + i % 2)).astype(np.float32) for i, n in enumerate(names)}
    (found,) = onnx.reference.ReferenceEvaluator(limited(proto)).run(None, feeds)
    np.testing.assert_array_equal(found, np.concatenate(list(feeds.values()), axis=1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 2])
def test_files_for_browsers_keep_to_it_and_draw_the_same(export, psnr, precision, batch) -> None:
    request = SampleRequest(batch=batch)
    written = export(request, OnnxOptions(precision=precision, ep="web"))
    assert widest(written.proto.graph) <= 8
    inputs = written.inputs()
    assert psnr(written.reference(inputs), written.run(inputs)) > (100 if precision == "fp32" else 55)
    # Other files keep their one Split: on CPUs it costs nothing.
    assert widest(export(request, OnnxOptions(precision=precision)).proto.graph) > 8
