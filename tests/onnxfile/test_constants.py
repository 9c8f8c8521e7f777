"""Constants in half precision and 8 bits: what is stored, and what ONNX's own reference reads back."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from cmexport.onnxfile.constants import half_steps, halve_constants, shrink_table

SUMS = """
<ir_version: 9, opset_import: ["" : 20]>
sums (float[1,256] x) => (float[1,256] y, float[1,256] z) <float[256] bias, float[256] large, float[1] few> {
    a = Add (x, bias)
    b = Mul (a, few)
    y = Add (b, large)
    z = Sub (b, bias)
}
"""
WORDS = """
<ir_version: 9, opset_import: ["" : 20]>
words (int64[2,5] tokens) => (float[2,5,64] y) <float[100,64] table> {
    taken = Gather <axis = 0> (table, tokens)
    y = Neg (taken)
}
"""


def model_of(text, arrays):
    proto = onnx.parser.parse_model(text)
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return ir.from_proto(proto)


def stored(model):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto, {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}


def test_long_constants_are_halved_once_and_widened_where_they_are_read():
    drawn = np.random.default_rng(0)
    bias, few = drawn.standard_normal(256).astype(np.float32), np.array([1 / 3], np.float32)
    large = np.full(256, 1e5, np.float32)
    model = model_of(SUMS, {"bias": bias, "large": large, "few": few})
    halve_constants(model.graph)
    proto, arrays = stored(model)
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "bias_half": "float16",
        "large": "float32",
        "few": "float32",
    }
    x = drawn.standard_normal((1, 256)).astype(np.float32)
    y, z = ReferenceEvaluator(proto).run(None, {"x": x})
    near = bias.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(y, (x + near) * few + large, rtol=1e-6)
    np.testing.assert_allclose(z, (x + near) * few - near, rtol=1e-6, atol=1e-6)
    assert np.abs(near - bias).max() > 1e-5


@pytest.mark.parametrize("in_bytes", [True, False])
def test_a_table_of_words_takes_a_byte_for_each_number(in_bytes):
    table = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32) * np.arange(100)[:, None]
    model = model_of(WORDS, {"table": table.astype(np.float32)})
    (gather,) = (node for node in model.graph if node.op_type == "Gather")
    shrink_table(model.graph, gather, words_in_bytes=in_bytes)
    proto, arrays = stored(model)
    assert sum(array.nbytes for array in arrays.values()) == (100 * 64 + 2 * 100 if in_bytes else 2 * 100 * 64)
    tokens = np.array([[0, 1, 2, 3, 4], [99, 98, 97, 96, 99]])
    (y,) = ReferenceEvaluator(proto).run(None, {"tokens": tokens})
    error = np.abs(-y - table[tokens])
    step = np.abs(table).max(axis=1) / 127
    assert (error <= (0.51 if in_bytes else 0.05) * step[tokens][..., None] + 1e-6).all()
    assert error.max() > 0


def test_steps_that_half_precision_lacks_digits_for_stay_as_they_are():
    steps = np.array([1e-3, 2.0, 1e-6, 1e6], np.float32)
    found = half_steps(steps)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:2], steps[:2].astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found[2:], steps[2:])
    assert found[0] != steps[0]
