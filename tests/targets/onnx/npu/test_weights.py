"""Codes and corrections put into a file: whose they are, however the file lays the weight, and what is shared."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cmexport.quantize.calibration import LayerStatistics
from cmexport.quantize.codes import PER_TENSOR, RoundingOptions, encode, with_bias
from cmexport.quantize.layers import Layer, WeightedOperator
from cmexport.targets.onnx.npu.split_readers import part_readers
from cmexport.targets.onnx.npu.weights import put_weights


class Known(LayerStatistics):
    """Inputs from -1 to 2."""

    def input_range(self):
        return torch.full((4,), -1.0), torch.full((4,), 2.0)


def layer(key, *shape, kind="conv"):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(len(key)))
    return Layer(key, "spatial", (key,), WeightedOperator(kind), weight)


def model_of(nodes, stored, shape, output):
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_each_convolution_gets_its_codes_and_its_own_bias():
    one, two = layer("a", 4, 4, 3, 3), layer("ab", 4, 4, 1, 1)
    bias = np.arange(4, dtype=np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "first", "shared"], ["h"], "first_conv", pads=[1] * 4),
        helper.make_node("Conv", ["h", "second", "shared"], ["k"], "second_conv"),
        helper.make_node("Conv", ["k", "second"], ["y"], "third_conv"),
    ]
    stored = {"first": one.weight.numpy(), "second": two.weight.numpy(), "shared": bias}
    model = model_of(nodes, stored, [1, 4, 8, 8], "y")
    shifts = torch.tensor([[0.5] * 4, [-2.0, 0, 1, 3]])
    codes = [
        with_bias(encode(each, Known((), ()), PER_TENSOR, RoundingOptions()), shift)
        for each, shift in zip((one, two), shifts, strict=True)
    ]
    found = put_weights(model, (one, two), codes)
    assert found.nodes == {"a": ("first_conv",), "ab": ("second_conv", "third_conv")}
    assert {name: chosen.layer.key for name, chosen in found.codes.items()} == {"first": "a", "second": "ab"}
    onnx.checker.check_model(model)
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    y = torch.nn.functional.conv2d(torch.from_numpy(x), codes[0].weight, torch.from_numpy(bias) + shifts[0], padding=1)
    y = torch.nn.functional.conv2d(y, codes[1].weight, torch.from_numpy(bias) + shifts[1])
    y = torch.nn.functional.conv2d(y, codes[1].weight, shifts[1])
    assert np.allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], y.numpy(), atol=1e-4)
    assert not np.array_equal(codes[0].weight.numpy(), one.weight.numpy())


def test_a_linear_layer_is_known_either_way_round():
    linear = layer("abc", 6, 4, kind="linear")
    for stored in (linear.weight.numpy(), np.ascontiguousarray(linear.weight.numpy().T)):
        shape = [1, stored.shape[0]]
        model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": stored}, shape, "y")
        found = put_weights(model, (linear,), ())
        assert found.nodes == {"abc": ("product",)}
        assert not found.codes


def test_a_reader_that_is_parted_reads_nearly_the_same():
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"], "q"),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["read"], "d"),
        helper.make_node("Sigmoid", ["read"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["read", "gate"], ["y"], "mul"),
    ]
    stored = {"step": np.array(1e-3, np.float32), "zero": np.array(30_000, np.uint16)}
    model = model_of(nodes, stored, [64], "y")
    plain = model.SerializeToString()
    part_readers(model)
    sigmoid, mul = (next(n for n in model.graph.node if n.op_type == kind) for kind in ("Sigmoid", "Mul"))
    assert mul.input[0] == "read"
    assert sigmoid.input[0] != "read"
    body = [n for n in model.graph.node if n.op_type.endswith("Linear")]
    del model.graph.node[:]
    model.graph.node.extend([*body, sigmoid, mul])
    onnx.checker.check_model(model)
    x = np.linspace(-8, 8, 64, dtype=np.float32)
    before, after = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (onnx.load_from_string(plain), model))
    assert np.abs(before - after).max() < 2e-3
    assert not np.array_equal(before, after)
