"""Counting a file's operators, numbers and bytes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness.onnx_facts import file_facts


def _model(functions=(), nodes=None):
    weight = numpy_helper.from_array(np.ones((4, 300), np.float32), "w")
    bias = numpy_helper.from_array(np.zeros(300, np.float32), "b")
    nodes = nodes or [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 300])],
        [weight, bias],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def test_nodes_parameters_and_bytes(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(_model(), path)
    facts = file_facts(path)
    assert (facts.nodes, facts.parameters) == (2, 4 * 300 + 300)
    assert facts.bytes == path.stat().st_size


def test_weights_beside_the_file_count(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(_model(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    facts = file_facts(path)
    assert facts.parameters == 4 * 300 + 300
    assert facts.bytes == path.stat().st_size + (tmp_path / "m.data").stat().st_size
    assert facts.bytes > 4 * 1500


def test_a_function_counts_as_often_as_it_is_called(tmp_path):
    inner = [helper.make_node("Neg", ["a"], ["t"]), helper.make_node("Abs", ["t"], ["c"])]
    function = helper.make_function("local", "NegAbs", ["a"], ["c"], inner, [helper.make_opsetid("", 20)])
    nodes = [
        helper.make_node("NegAbs", ["x"], ["p"], domain="local"),
        helper.make_node("NegAbs", ["p"], ["q"], domain="local"),
        helper.make_node("MatMul", ["q", "w"], ["y"]),
    ]
    path = tmp_path / "m.onnx"
    onnx.save(_model([function], nodes), path)
    assert file_facts(path).nodes == 5
