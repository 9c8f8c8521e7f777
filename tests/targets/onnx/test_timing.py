"""Latency ratios of real files; nothing here depends on how fast the machine is."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from cmexport.errors import BackendError
from cmexport.targets.onnx.timing import latency_ratios


def write(path, repeats, side=96):
    """`repeats` matrix products in a row, and an int64 label that takes part."""
    cast = helper.make_node("Cast", ["label"], ["l"], to=TensorProto.FLOAT)
    nodes = [cast, helper.make_node("Add", ["x", "l"], ["y0"])]
    nodes += [helper.make_node("MatMul", [f"y{i}", "x"], [f"y{i + 1}"]) for i in range(repeats)]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [side, side]),
            helper.make_tensor_value_info("label", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info(f"y{repeats}", TensorProto.FLOAT, [side, side])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_file_takes_as_long_as_itself_and_less_than_fifty_of_it(tmp_path):
    small, large = write(tmp_path / "a.onnx", 4), write(tmp_path / "b.onnx", 200)
    first, again, long = latency_ratios([small, small, large], turns=5, runs=10)
    assert first == 1.0
    assert 0.5 < again < 2.0
    assert long > 4
    inverse = latency_ratios([large, small], turns=3, runs=5)[1]
    assert inverse < 0.25


@pytest.mark.parametrize("content", [None, b"", b"no model at all", "cut"])
def test_what_cannot_be_loaded_is_one_sentence(tmp_path, content):
    good, bad = write(tmp_path / "good.onnx", 2), tmp_path / "bad.onnx"
    if content == "cut":
        bad.write_bytes(good.read_bytes()[:-40])
    elif content is not None:
        bad.write_bytes(content)
    with pytest.raises(BackendError) as refused:
        latency_ratios([good, bad], turns=1, runs=1)
    assert str(refused.value).startswith("bad.onnx: ONNX Runtime ")
    assert len(str(refused.value).splitlines()) == 1


def test_no_files_no_ratios():
    assert latency_ratios([]) == ()
