"""What is alive at one time, on graphs small enough to count by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cmexport.errors import BackendError
from cmexport.onnxfile.liveness import footprint
from cmexport.onnxfile.one_weights_file import gather_weights

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
TWO_DOMAINS = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]


def info(name, *shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write(path, nodes, inputs, outputs, weights=(), inside=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(w, n) for n, w in weights])
    graph.value_info.extend(inside)
    onnx.save(helper.make_model(graph, opset_imports=TWO_DOMAINS, ir_version=9), path)
    return path


def weight(name, *shape, dtype=np.float32):
    return name, np.zeros(shape, dtype)


@pytest.fixture
def chain(tmp_path):
    """x 4,000 bytes, a 2,000, b 8,000, over which c is written, y 40."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w3"], ["y"]),
    ]
    weights = [weight("w1", 1000, 500), weight("w2", 500, 2000), weight("w3", 2000, 10)]
    inside = [info("a", 1, 500), info("b", 1, 2000), info("c", 1, 2000)]
    return write(tmp_path / "chain.onnx", nodes, [info("x", 1, 1000)], [info("y", 1, 10)], weights, inside)


def test_a_chain(chain):
    found = footprint(chain)
    stored = 4 * (1000 * 500 + 500 * 2000 + 2000 * 10)
    assert (found.stored, found.inside, found.halves, found.shared_halves) == (stored, stored, 0, 0)
    assert (found.live, found.at) == (4000 + 2000 + 8000, "b")
    assert (found.nodes, found.workspace) == (4, 0)
    assert found.on_device == stored + 14_000


def test_weights_beside_the_file_are_not_inside(chain):
    before = footprint(chain)
    gather_weights([chain], chain.with_name("weights.bin"))
    assert footprint(chain) == type(before)(**{**vars(before), "inside": 0})


def test_what_is_read_later_lives_until_then(tmp_path):
    """x lives to the end as the app's own; a is read by the last node, so that a, b and the sum's two are alive."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["a"], axis=1),
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),
        helper.make_node("ReduceSum", ["b", "axes"], ["s"], keepdims=1),
        helper.make_node("Mul", ["a", "s"], ["y"]),
    ]
    axes = ("axes", np.array([1], np.int64))
    inside = [info("a", 1, 20), info("b", 1, 40), info("s", 1, 1)]
    path = write(tmp_path / "late.onnx", nodes, [info("x", 1, 10)], [info("y", 1, 20)], [axes], inside)
    found = footprint(path)
    assert (found.live, found.at) == (4 * (10 + 20 + 40 + 1), "s")


def test_views_take_no_memory_and_keep_what_they_look_at(tmp_path):
    """`a` is read through its view by the last node; were the view a copy, there would be 80 bytes more."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["a"], axis=1),
        helper.make_node("Reshape", ["a", "shape"], ["v"]),
        helper.make_node("Concat", ["x", "x", "x"], ["b"], axis=1),
        helper.make_node("MatMul", ["v", "b"], ["y"]),
    ]
    shape = ("shape", np.array([20, 1], np.int64))
    inside = [info("a", 1, 20), info("v", 20, 1), info("b", 1, 30)]
    path = write(tmp_path / "views.onnx", nodes, [info("x", 1, 10)], [info("y", 20, 30)], [shape], inside)
    assert footprint(path).live == 4 * (10 + 20 + 30 + 600)


def test_half_precision_as_it_is_and_widened(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=HALF),
        helper.make_node("MatMul", ["h", "w"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=FLOAT),
    ]
    weights = [weight("w", 100, 100, dtype=np.float16), weight("v", 100, 50, dtype=np.float16)]
    inside = [info(name, 1, 100, kind=HALF) for name in "hab"] + [info("c", 1, 50, kind=HALF)]
    path = write(tmp_path / "half.onnx", nodes, [info("x", 1, 100)], [info("y", 1, 50)], weights, inside)
    half, widened = footprint(path), footprint(path, widened=True)
    assert (half.halves, half.shared_halves) == (2 * 15_000, 2 * 10_000)
    assert half.live == 400 + 200 + 200
    assert widened.live == 400 + 400 + 400
    assert widened.stored == half.stored == 30_000


def test_attention_takes_its_logits(tmp_path):
    node = helper.make_node("Attention", ["x", "w", "bias"], ["y"], domain="com.microsoft", num_heads=4)
    weights = [weight("w", 32, 96), weight("bias", 96)]
    path = write(tmp_path / "a.onnx", [node], [info("x", 2, 50, 32)], [info("y", 2, 50, 32)], weights)
    assert footprint(path).workspace == 4 * 2 * 4 * 50 * 50


def test_values_without_shapes_and_loops_are_named(tmp_path):
    nodes = [helper.make_node("Exp", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["y"])]
    path = write(tmp_path / "bare.onnx", nodes, [info("x", 1, 4)], [info("y", 1, 4)])
    with pytest.raises(BackendError, match=r"bare\.onnx: has no shape of a,"):
        footprint(path)
    branch = helper.make_graph([helper.make_node("Exp", ["x"], ["z"])], "b", [], [info("z", 1, 4)])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    yes = ("yes", np.array(True))
    path = write(tmp_path / "if.onnx", [choice], [info("x", 1, 4)], [info("y", 1, 4)], [yes])
    with pytest.raises(BackendError, match=r"if\.onnx: a graph with loops"):
        footprint(path)
