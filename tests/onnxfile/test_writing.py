"""The streaming writer against onnx_ir's own, byte for byte of meaning."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from cmexport.onnxfile.sharing import share_matrices
from cmexport.onnxfile.writing import write_model

TEXT = """
<ir_version: 9, opset_import: ["" : 20], producer_name: "someone", doc_string: "text">
graph (float[2,3] noise) => (float[2,4] image) {
    a = MatMul(noise, first)
    b = MatMul(noise, second)
    c = Add(a, b)
    image = Mul(c, factor)
}
"""


def model(**constants):
    proto = onnx.parser.parse_model(TEXT)
    value = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [2, 4])
    proto.graph.value_info.append(value)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    entry = proto.metadata_props.add()
    entry.key, entry.value = "key", "value"
    return ir.from_proto(proto)


def constants(columns=4):
    drawn = np.random.default_rng(0).standard_normal((3, columns)).astype(np.float32)
    return {"first": drawn, "second": -drawn, "factor": np.float32(3.0).reshape(())}


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"half": np.arange(300, dtype=np.float16).reshape(2, 150)},
        {"empty": np.zeros((0, 4), np.float32), "index": np.arange(5), "text_é": np.ones((1, 1, 1, 1), np.float32)},
        {"large": np.arange(70_000, dtype=np.float32)},
    ],
    ids=["plain", "half", "odd shapes", "varint of three bytes"],
)
def test_the_file_means_what_onnx_ir_would_write(tmp_path, extra):
    subject = model(**constants(), **extra)
    ir.save(subject, tmp_path / "expected.onnx")
    write_model(subject, tmp_path / "got.onnx")
    expected, got = onnx.load(tmp_path / "expected.onnx"), onnx.load(tmp_path / "got.onnx")
    assert [i.name for i in got.graph.initializer] == [i.name for i in expected.graph.initializer]
    # onnx_ir states the types of weights a second time; the tensors themselves say them.
    weights = {i.name for i in got.graph.initializer}
    kept = [v for v in expected.graph.value_info if v.name not in weights]
    del expected.graph.value_info[:]
    expected.graph.value_info.extend(kept)
    assert got == expected
    onnx.checker.check_model(str(tmp_path / "got.onnx"))
    # The model in memory keeps its weights.
    assert list(subject.graph.initializers) == list({**constants(), **extra})


def test_equal_matrices_become_one():
    drawn = constants()["first"]
    subject = model(first=drawn, second=np.asfortranarray(drawn.copy()), factor=np.float32(3.0).reshape(()))
    assert share_matrices(subject) == 1
    assert set(subject.graph.initializers) == {"first", "factor"}
    onnx.checker.check_model(ir.to_proto(subject))
    assert [list(n.input) for n in ir.to_proto(subject).graph.node[:2]] == [["noise", "first"]] * 2


def test_matrices_that_differ_stay():
    subject = model(**constants())
    assert share_matrices(subject) == 0
    assert set(subject.graph.initializers) == {"first", "second", "factor"}
