"""Types that ONNX Runtime's tool gives to stored tensors, where Qualcomm's compiler is particular."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cmexport.targets.onnx.npu.pairs import with_pairs
from cmexport.targets.onnx.npu.weights import Weights


def test_a_norm_has_unsigned_weights_and_a_product_signed_ones():
    """`QNN.backendValidateOpConfig() failed for node of type LayerNorm with error code 3110`, with signed ones."""
    generator = np.random.default_rng(0)
    stored = {
        "gamma": generator.normal(1.0, 0.3, 8).astype(np.float32),
        "beta": generator.normal(0.0, 0.3, 8).astype(np.float32),
        "matrix": generator.normal(size=(8, 8)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["normed"], "norm", axis=-1),
            helper.make_node("MatMul", ["normed", "matrix"], ["y"], "product"),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    ranges = {"x": (-3.0, 3.0), "normed": (-4.0, 4.0), "y": (-12.0, 12.0)}
    result = with_pairs(onnx.shape_inference.infer_shapes(model), ranges, Weights({}, {}), [])
    makers = {name: node for node in result.graph.node for name in node.output}
    constants = {i.name: numpy_helper.to_array(i) for i in result.graph.initializer}
    for kind, name, dtype in (("LayerNormalization", "gamma", np.uint8), ("MatMul", "matrix", np.int8)):
        (node,) = (n for n in result.graph.node if n.op_type == kind)
        codes, step, zero = (constants[i] for i in makers[node.input[1]].input)
        assert codes.dtype == zero.dtype == dtype
        values = (codes.astype(np.float64) - zero) * step
        np.testing.assert_allclose(values, stored[name], rtol=0, atol=0.51 * step.max())
