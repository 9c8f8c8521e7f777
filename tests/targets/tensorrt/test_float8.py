from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cmexport.graph.tracing import to_module
from cmexport.targets.tensorrt.float8 import FLOAT8, plan_float8, store_weights, with_pairs


def _model(weight, operator="Conv", scale=0.0625):
    """A quantized activation into one operator with a stored weight."""
    shape = (1, 4, 5, 5) if operator == "Conv" else (1, 5, 4)
    out = (1, weight.shape[0], 5, 5) if operator == "Conv" else (1, 5, weight.shape[1])
    nodes = [
        helper.make_node("QuantizeLinear", ["noise", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node(operator, ["d", "w"], ["image"], **({"pads": [1, 1, 1, 1]} if operator == "Conv" else {})),
    ]
    stored = [
        numpy_helper.from_array(np.float32(scale).reshape(()), "s"),
        helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0]),
        numpy_helper.from_array(weight, "w"),
    ]
    border = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("noise", shape), ("image", out))]
    graph = helper.make_graph(nodes, "g", *border, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model)), shape


def _run(model, noise):
    """Without optimization, which makes an integer product of a pair and a MatMul in float32, and then refuses it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {"noise": noise})[0]


@pytest.mark.parametrize("operator", ["Conv", "MatMul"])
def test_weights_have_one_scale_and_are_the_nearest_numbers(operator):
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((6, 4, 3, 3) if operator == "Conv" else (4, 6)).astype(np.float32)
    model, shape = _model(weight, operator)
    assert store_weights(model) == 1
    stored = {v.name: v.const_value.numpy() for v in model.graph.initializers.values()}
    assert set(stored) == {"s", "z", "w_codes", "w_scale"}
    assert stored["w_codes"].dtype == ml_dtypes.float8_e4m3fn
    assert np.abs(stored["w_codes"].astype(np.float32)).max() == 448
    assert stored["w_scale"].shape == ()
    assert np.float16(stored["w_scale"]) == stored["w_scale"]
    back = stored["w_codes"].astype(np.float32) * stored["w_scale"]
    # E4M3 has 3 bits behind the point: a relative error of at most 1/16, and of half the smallest step near zero.
    assert (np.abs(back - weight) <= np.abs(weight) / 16 + stored["w_scale"] * 2.0**-10 + 1e-6).all()
    noise = draw.standard_normal(shape).astype(np.float32)
    codes = torch.from_numpy(noise / 0.0625).to(torch.float8_e4m3fn).float() * 0.0625
    numbers = torch.from_numpy(back)
    expected = torch.conv2d(codes, numbers, padding=1) if operator == "Conv" else codes @ numbers
    np.testing.assert_allclose(_run(model, noise), expected.numpy(), atol=1e-4)


def test_the_plan_reaches_as_far_as_activations_do(captured):
    graph = captured()
    plan = plan_float8(graph, lambda _: None)
    assert plan.scales
    assert all(np.float16(s) == s and s >= 2.0**-14 for s in plan.scales.values())
    assert not set(plan.scales) & set(plan.left)
    largest = dict.fromkeys(plan.scales, 0.0)

    class Watching(torch.fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            if n.name in largest:
                largest[n.name] = float(result.abs().max())
            return result

    draw = torch.Generator().manual_seed(20_000)
    inputs = {s.name: torch.randn(s.shape, generator=draw) for s in graph.signature.inputs if s.name == "noise"}
    with torch.no_grad():
        Watching(to_module(graph.program)).run(*inputs.values(), torch.zeros(1, dtype=torch.int64))
    for name, scale in plan.scales.items():
        assert 0.3 * 448 * scale < largest[name] < 1.2 * 448 * scale, name


def test_pairs_compute_what_torchs_own_float8_does(toy):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 8, 3, bias=False)
            self.second = torch.nn.Conv2d(8, 16, 3, bias=False)

        def forward(self, noise):
            return self.second(torch.tanh(self.conv(noise)))

    torch.manual_seed(0)
    noise = torch.randn(1, 4, 9, 9)
    net = Net()
    quantized = with_pairs(toy(net, noise=noise), {"tanh": 0.001953125})
    with torch.no_grad():
        found = to_module(quantized.program)(noise=noise)
        # 448 steps reach to 0.875: what lies beyond is cut off.
        codes = (torch.tanh(net.conv(noise)) / 0.001953125).clamp(-448, 448).to(torch.float8_e4m3fn).float()
        assert torch.allclose(found, torch.conv2d(codes * 0.001953125, net.second.weight), atol=1e-5)
        assert not torch.allclose(found, net(noise), atol=1e-3)


def test_the_file_keeps_its_gate_and_stores_float8(shared_export, psnr):
    written = shared_export("fp8")
    kinds = {t.data_type for t in written.proto.graph.initializer if len(t.raw_data) > 1000}
    assert FLOAT8.value in kinds
    inputs = written.inputs()
    for rung in written.rungs:
        with rung.open() as run:
            assert psnr(written.reference(inputs), run(inputs)["image"]) > 35, rung.name
