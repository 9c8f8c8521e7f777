"""Integer products: positions of patches, operators against whole numbers, and the written file against both."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.eight_bits import exact_conv, exact_linear, random, run_file, spelled, written
from support.measuring import toy
from torch import nn

from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import INTEGER_PRODUCTS, with_bias
from cmexport.quantize.int8 import encode_layers, prepare
from cmexport.quantize.layers import find_layers
from cmexport.quantize.precision_plan import INT8, PrecisionPlan
from cmexport.targets.onnx.contrib import packed_attention
from cmexport.targets.onnx.int8 import PACKED, with_layers
from cmexport.targets.onnx.integer.insertion import patch_index
from cmexport.targets.onnx.rewrites import OWN_REWRITES

__all__ = ["toy"]

FEW = CalibrationOptions(4, 2)


@settings(deadline=None, max_examples=120)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from([1, 2]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_the_index_lays_out_patches_as_unfold_does(size, factor, kernel, stride, padding):
    large = [factor * s for s in size]
    if any(s + 2 * p < k for s, p, k in zip(large, padding, kernel, strict=True)):
        return
    x = random(2, 3, *size)
    up = F.interpolate(x, scale_factor=factor, mode="nearest")
    expected = F.unfold(up, kernel, padding=padding, stride=stride)
    index = patch_index(size, factor, kernel, stride, padding)
    assert index.dtype == torch.int64
    places = torch.cat([x.flatten(2), torch.zeros(2, 3, 1)], dim=2)
    taken = places[:, :, index].reshape(2, 3, -1, kernel[0] * kernel[1])
    assert torch.equal(taken.permute(0, 1, 3, 2).flatten(1, 2), expected)


class Conv(nn.Module):
    def __init__(self, stride=1, padding=1, kernel=3, bias=True, up=False):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(8, 48, kernel, stride=stride, padding=padding, bias=bias)
        self.up = up

    def forward(self, noise):
        return self.conv(F.interpolate(noise, scale_factor=2.0, mode="nearest") if self.up else noise)


def in_8_bits(graph, bias_seed=None):
    """The graph with all its layers as integer products, and their codes by key."""
    keys = [layer.key for layer in find_layers(graph, PACKED)]
    plan = PrecisionPlan(dict.fromkeys(keys, INT8))
    prepared = prepare(graph, plan, operators=PACKED, options=FEW)
    codes = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    if bias_seed is not None:
        codes = tuple(with_bias(c, random(len(c.weight_step), seed=bias_seed)) for c in codes)
    return with_layers(graph, codes, signed=False), {c.layer.key: c for c in codes}


def run_graph(captured, inputs):
    with torch.no_grad():
        result = to_module(captured.program)(**inputs)
    return result[0] if isinstance(result, tuple | list) else result


CASES = {
    "3x3": {},
    "stride 2": {"stride": 2},
    "no padding": {"padding": 0},
    "no bias": {"bias": False},
    "upsampled": {"up": True},
    "1 high": {"kernel": (1, 3), "padding": (0, 1)},
    "5x5": {"kernel": 5, "padding": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_is_that_of_whole_numbers_in_torch_and_in_the_file(toy, tmp_path, case):
    net = Conv(**CASES[case])
    graph = toy(net, torch.zeros(2, 8, 6, 5))
    eight, codes = in_8_bits(graph, bias_seed=9)
    inputs = graph.examples(3)
    x = F.interpolate(inputs["noise"], scale_factor=2.0) if net.up else inputs["noise"]
    pad = net.conv.padding
    # Zeros around the picture are exact, so padding by hand is padding.
    x = F.pad(x, (pad[1], pad[1], pad[0], pad[0]))
    bias = None if net.conv.bias is None else net.conv.bias.detach()
    expected = exact_conv(codes["conv"], x, bias, net.conv.stride[0], 0)
    found = run_graph(eight, inputs)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    assert float((found - run_graph(graph, inputs)).abs().max()) < 0.1 + float(codes["conv"].bias.abs().max())
    path = written(eight, tmp_path / "m.onnx", spelled())
    for optimization in ("none", "all"):
        torch.testing.assert_close(run_file(path, inputs, optimization).double(), expected, rtol=1e-5, atol=1e-4)
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 1
    assert not {"Conv", "Resize"} & set(kinds)


def test_an_upsampled_picture_that_others_read_stays(toy, tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, noise):
            up = F.interpolate(noise, scale_factor=2.0, mode="nearest")
            return self.conv(up) + up

    graph = toy(Both(), torch.zeros(1, 16, 4, 4))
    eight, _ = in_8_bits(graph)
    inputs = graph.examples(3)
    assert float((run_graph(eight, inputs) - run_graph(graph, inputs)).abs().max()) < 0.1
    path = written(eight, tmp_path / "m.onnx", spelled())
    torch.testing.assert_close(run_file(path, inputs), run_graph(eight, inputs), rtol=1e-5, atol=1e-4)


C, HEADS, WIDTH, SIDE = 32, 2, 16, 3


class Attention(nn.Module):
    """A block as the UNets have it; `other` also reads what attention returns."""

    def __init__(self, other=False):
        super().__init__()
        torch.manual_seed(2)
        self.qkv, self.proj, self.other = nn.Conv2d(C, 3 * C, 1), nn.Conv2d(C, C, 1), other
        for p in self.parameters():
            nn.init.normal_(p, std=0.4)

    def forward(self, noise):
        n = noise.shape[0]
        q, k, v = self.qkv(noise).reshape(n, 3 * HEADS, WIDTH, -1).transpose(2, 3).chunk(3, dim=1)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(2, 3).reshape(noise.shape)
        return self.proj(mixed) + noise


def attended(codes, bias, tokens):
    """Attention in float64 on a projection computed in whole numbers."""
    n, t, _ = tokens.shape
    qkv = exact_linear(codes, tokens, bias).reshape(n, t, 3, HEADS, WIDTH)
    q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
    return (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(n, t, C)


@pytest.fixture(scope="module")
def block(toy):
    net = Attention()
    graph = apply_rewrites(toy(net, torch.zeros(2, C, SIDE, SIDE)), OWN_REWRITES)
    return net, graph, *in_8_bits(graph, bias_seed=4)


def test_values_leave_attention_in_the_steps_of_the_projection_that_reads_them(block, tmp_path):
    net, graph, eight, codes = block
    assert {c.layer.role for c in codes.values()} == {"attention", "linear"}
    by_role = {c.layer.role: c for c in codes.values()}
    inputs = graph.examples(5)
    tokens = inputs["noise"].flatten(2).transpose(1, 2)
    mixed = attended(by_role["attention"], net.qkv.bias.detach(), tokens)
    y = exact_linear(by_role["linear"], mixed.float(), net.proj.bias.detach())
    expected = y.transpose(1, 2).reshape(inputs["noise"].shape) + inputs["noise"]
    found = run_graph(eight, inputs)
    # Few values lie between two codes of the projection, and tip.
    close = (found.double() - expected).abs() < 1e-3
    assert float(close.double().mean()) > 0.97
    assert float((found.double() - expected).abs().max()) < 0.1
    calls = [str(n.target) for n in to_module(eight.program).graph.nodes if n.op == "call_function"]
    # Nothing stands between the two: no multiplication, no addition but the residual one.
    assert sum("mul" in call.split(".")[-2] for call in calls if call.startswith("aten")) == 0
    assert sum(call == "aten.add.Tensor" for call in calls) == 1
    path = written(eight, tmp_path / "m.onnx", spelled())
    for optimization in ("none", "all"):
        apart = (run_file(path, inputs, optimization) - found).abs()
        assert float((apart < 1e-3).double().mean()) > 0.97
        assert float(apart.max()) < 0.1
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert kinds.count("QAttention") == kinds.count("MatMulIntegerToFloat") == 1


def test_a_projection_in_float_reads_plain_values(block, tmp_path):
    net, graph, _, codes = block
    only = next(c for c in codes.values() if c.layer.role == "attention")
    eight = with_layers(graph, [only], signed=False)
    inputs = graph.examples(6)
    mixed = attended(only, net.qkv.bias.detach(), inputs["noise"].flatten(2).transpose(1, 2))
    y = F.linear(mixed, net.proj.weight.detach().flatten(1).double(), net.proj.bias.detach().double())
    expected = y.transpose(1, 2).reshape(inputs["noise"].shape) + inputs["noise"]
    torch.testing.assert_close(run_graph(eight, inputs).double(), expected, rtol=1e-4, atol=1e-4)
    path = written(eight, tmp_path / "m.onnx", spelled())
    torch.testing.assert_close(run_file(path, inputs).double(), expected, rtol=1e-4, atol=1e-3)


def test_a_projection_alone_rounds_its_own_input(block, tmp_path):
    net, graph, _, codes = block
    only = next(c for c in codes.values() if c.layer.role == "linear")
    eight = with_layers(graph, [only], signed=False)
    inputs = graph.examples(6)
    tokens = inputs["noise"].flatten(2).transpose(1, 2).double()
    qkv = F.linear(tokens, net.qkv.weight.detach().flatten(1).double(), net.qkv.bias.detach().double())
    q, k, v = (part.transpose(1, 2) for part in qkv.reshape(2, -1, 3, HEADS, WIDTH).unbind(2))
    mixed = (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(2, -1, C)
    y = exact_linear(only, mixed.float(), net.proj.bias.detach())
    expected = y.transpose(1, 2).reshape(inputs["noise"].shape) + inputs["noise"]
    found = run_graph(eight, inputs).double()
    assert float(((found - expected).abs() < 1e-3).double().mean()) > 0.97
    path = written(eight, tmp_path / "m.onnx", spelled())
    assert float(((run_file(path, inputs) - expected).abs() < 1e-3).double().mean()) > 0.97


def test_a_linear_layer_of_its_own(toy, tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.one = nn.Linear(32, 48, bias=False)

        def forward(self, noise):
            return self.one(noise.flatten(2).transpose(1, 2))

    graph = toy(Net(), torch.zeros(2, 32, 3, 2))
    eight, codes = in_8_bits(graph, bias_seed=1)
    inputs = graph.examples(2)
    expected = exact_linear(codes["one"], inputs["noise"].flatten(2).transpose(1, 2))
    found = run_graph(eight, inputs).double()
    # x / step + zero and its rounding differ in the last bit from rounding first.
    assert float(((found - expected).abs() < 1e-4).double().mean()) > 0.98
    path = written(eight, tmp_path / "m.onnx", spelled())
    for optimization in ("none", "all"):
        torch.testing.assert_close(run_file(path, inputs, optimization).double(), found, rtol=1e-5, atol=1e-4)


def test_the_given_graph_keeps_its_own(block):
    net, graph, _, _ = block
    inputs = graph.examples(1)
    torch.testing.assert_close(run_graph(graph, inputs), net(inputs["noise"]), rtol=1e-4, atol=1e-4)


def test_packed_attention_has_the_gradient_of_its_formula():
    x, weight, bias = random(2, 5, 8), random(8, 24, seed=1), random(24, seed=2)
    gradients = []
    for plain in (False, True):
        inputs = [t.clone().requires_grad_(True) for t in (x, weight, bias)]
        if plain:
            q, k, v = ((inputs[0] @ inputs[1] + inputs[2]).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)).unbind(0)
            y = (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(2, 5, 8)
        else:
            y = packed_attention(*inputs, 2)
        gradients.append([y.detach(), *torch.autograd.grad((y * random(2, 5, 8, seed=3)).sum(), inputs)])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
