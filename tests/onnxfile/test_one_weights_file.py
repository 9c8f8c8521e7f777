"""Weights of several models in one file: on pages, each once, and the models give what they gave."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cmexport.onnxfile.one_weights_file import PAGE, gather_weights, write_beside


def product(path, weight, name):
    shape = [1, len(weight)]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], ["h"]), helper.make_node("Add", ["h", "one"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weight.shape[1]])],
        [numpy_helper.from_array(weight, name), numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


@pytest.fixture
def models(tmp_path):
    rng = np.random.default_rng(0)
    shared, own = (rng.standard_normal((33, 17), np.float32) for _ in range(2))
    for name, weight in {"a": shared, "b": own, "c": shared}.items():
        product(tmp_path / f"{name}.onnx", weight, f"weight_{name}")
    return [tmp_path / f"{name}.onnx" for name in "abc"]


def run(path):
    return ort.InferenceSession(str(path)).run(None, {"x": np.linspace(-1, 1, 33, dtype=np.float32)[None]})[0]


def test_weights_lie_once_and_on_pages(models, tmp_path):
    before = [run(path) for path in models]
    gather_weights(models, tmp_path / "weights.bin")
    for path, expected in zip(models, before, strict=True):
        np.testing.assert_array_equal(run(path), expected)
    offsets = {}
    for path in models:
        stored = {i.name: i for i in onnx.load(path, load_external_data=False).graph.initializer}
        place = {entry.key: entry.value for entry in stored[f"weight_{path.stem}"].external_data}
        assert place["location"] == "weights.bin"
        offsets[path.stem] = int(place["offset"])
        assert not stored["one"].external_data, "smaller than its description"
    assert all(offset % PAGE == 0 for offset in offsets.values())
    assert offsets["a"] == offsets["c"] != offsets["b"]
    assert (tmp_path / "weights.bin").stat().st_size == PAGE + 33 * 17 * 4


def test_what_held_the_weights_before_is_gone(models, tmp_path):
    for path in models:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    before = [run(path) for path in models]
    gather_weights(models, tmp_path / "weights.bin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "c.onnx", "weights.bin"]
    for path, expected in zip(models, before, strict=True):
        np.testing.assert_array_equal(run(path), expected)


def test_written_beside_the_model_keeps_its_weights(models, tmp_path):
    model, expected = ir.load(models[0]), run(models[0])
    model = ir.from_proto(ir.to_proto(model))
    write_beside(model, tmp_path / "new.onnx", tmp_path / "new.onnx.data")
    stored = {i.name: i for i in onnx.load(tmp_path / "new.onnx", load_external_data=False).graph.initializer}
    place = {entry.key: entry.value for entry in stored["weight_a"].external_data}
    assert (place["location"], int(place["offset"]) % PAGE) == ("new.onnx.data", 0)
    np.testing.assert_array_equal(run(tmp_path / "new.onnx"), expected)
    assert not isinstance(model.graph.initializers["weight_a"].const_value, ir.ExternalTensor)
