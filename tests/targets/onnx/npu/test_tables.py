"""Tables of labels as codes: which nodes move their rows, and the numbers that come out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cmexport.targets.onnx.npu.tables import find_tables, pair_tables


def graph(table):
    """Rows of a table, cut in two, one half multiplied by the other."""
    half = table.shape[1] // 2
    nodes = [
        helper.make_node("Gather", ["table", "label"], ["row"], "look_up"),
        helper.make_node("Reshape", ["row", "shape"], ["flat"], "flatten"),
        helper.make_node("Split", ["flat", "sizes"], ["left", "right"], "cut"),
        helper.make_node("Mul", ["left", "right"], ["product"], "multiply"),
    ]
    stored = {"table": table, "shape": np.array([-1]), "sizes": np.array([half, half])}
    label = helper.make_tensor_value_info("label", onnx.TensorProto.INT64, [1])
    product = helper.make_tensor_value_info("product", onnx.TensorProto.FLOAT, [half])
    body = helper.make_graph(nodes, "g", [label], [product], [numpy_helper.from_array(v, k) for k, v in stored.items()])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def sorted_nodes(model):
    """The same model in an order that runs."""
    known = {i.name for i in (*model.graph.input, *model.graph.initializer)}
    left, done = list(model.graph.node), []
    while left:
        ready = [n for n in left if set(n.input) <= known]
        done += ready
        known |= {name for n in ready for name in n.output}
        left = [n for n in left if n not in ready]
    del model.graph.node[:]
    model.graph.node.extend(done)
    return model


@pytest.mark.parametrize("shift", [0.0, 3.0, -5.0])
def test_rows_come_out_within_half_a_step(shift):
    table = (np.random.default_rng(0).standard_normal((6, 8)) + shift).astype(np.float32)
    model = graph(table)
    (found,) = find_tables(model)
    assert found.nodes == ("look_up", "flatten", "cut")
    assert found.rows == ("row", "flat", "left", "right")
    span = max(table.max(), 0) - min(table.min(), 0)
    assert found.step == pytest.approx(span / 65535, rel=1e-5)
    pair_tables(model, (found,))
    onnx.checker.check_model(sorted_nodes(model))
    assert "table" not in {i.name for i in model.graph.initializer}
    for label in range(6):
        given = {"label": np.array([label])}
        left, right = np.split(table[label], 2)
        (product,) = ReferenceEvaluator(model).run(None, given)
        bound = found.step * (np.abs(left) + np.abs(right) + found.step)
        assert (np.abs(product - left * right) <= 0.51 * bound + 1e-6).all()
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        assert np.allclose(session.run(None, given)[0], product, atol=1e-5)


def test_what_is_computed_is_no_row_of_a_table():
    model = graph(np.ones((2, 4), np.float32))
    model.graph.node[1].op_type = "Relu"
    del model.graph.node[1].input[1:]
    assert find_tables(model)[0].nodes == ("look_up",)


def test_a_graph_without_tables_has_none():
    model = graph(np.ones((2, 4), np.float32))
    model.graph.node[0].op_type = "Add"
    assert find_tables(model) == ()
