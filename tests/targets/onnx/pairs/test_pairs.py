"""Convolutions between pairs: whole numbers, the torch operator, the file, and what ONNX Runtime makes of it."""

from __future__ import annotations

import platform

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from support.eight_bits import exact_conv, random, run_file, spelled, written
from support.measuring import toy
from torch import nn

from cmexport.graph.tracing import to_module
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import CONVOLUTIONS, with_bias
from cmexport.quantize.int8 import encode_layers, prepare
from cmexport.quantize.precision_plan import INT8, PrecisionPlan
from cmexport.targets.onnx.int8 import with_layers

__all__ = ["toy"]

X86 = platform.machine() in ("x86_64", "AMD64")


class Convs(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        torch.manual_seed(1)
        self.a = nn.Conv2d(8, 40, 3, padding=1, bias=bias)
        self.b = nn.Conv2d(40, 24, 3, stride=2, padding=1)
        self.c = nn.Conv2d(24, 64, 1)
        self.d = nn.Conv2d(64, 12, (3, 1), padding=(1, 0))

    def forward(self, noise):
        x = F.silu(self.b(F.silu(self.a(noise))))
        return self.d(F.silu(self.c(x)))


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "no bias"])
def convs(request, toy):
    net = Convs(request.param)
    graph = toy(net, torch.zeros(2, 8, 6, 7))
    keys = dict.fromkeys("abcd", INT8)
    prepared = prepare(graph, PrecisionPlan(keys), options=CalibrationOptions(16, 2))
    codes = encode_layers(prepared, lambda layer: CONVOLUTIONS)
    return net, graph, tuple(with_bias(c, random(len(c.weight_step), seed=4, spread=0.05)) for c in codes)


def run_graph(captured, inputs):
    with torch.no_grad():
        result = to_module(captured.program)(**inputs)
    return result[0] if isinstance(result, tuple | list) else result


def in_whole_numbers(net, codes, x):
    for c in codes:
        conv = getattr(net, c.layer.key)
        x = x if c.layer.key == "a" else F.silu(x)
        pad = conv.padding
        padded = F.pad(x, (pad[1], pad[1], pad[0], pad[0]))
        bias = None if conv.bias is None else conv.bias.detach()
        x = exact_conv(c, padded.float(), bias, conv.stride[0], 0)
    return x


def nearly(found, expected, step):
    """Equal, but for the few values that lie between two codes; those are a step apart, and not many steps."""
    apart = (found.double() - expected.double()).abs()
    return float((apart > 0.01 * step).double().mean()) < 0.02 and float(apart.max()) < 4 * step


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("alone", [True, False])
def test_pairs_are_whole_numbers_in_torch_and_in_the_file(convs, tmp_path, signed, alone):
    net, graph, codes = convs
    assert [c.layer.key for c in codes] == list("abcd")
    codes = codes[:1] if alone else codes
    if alone:
        graph = _only_first(net, graph)
    eight = with_layers(graph, codes, signed=signed)
    inputs = graph.examples(21)
    expected = in_whole_numbers(net, codes, inputs["noise"])
    step = float(codes[-1].output.step.max())
    found = run_graph(eight, inputs)
    assert nearly(found, expected, step)
    assert float(expected.std()) > 10 * step
    path = written(eight, tmp_path / "m.onnx", spelled())
    for optimization in ("none", "all"):
        made = run_file(path, inputs, optimization)
        if optimization == "none":
            assert nearly(made, expected, step)
        else:
            # Its integer convolutions round the bias too, to steps of the sum: more sums tip, none goes far.
            assert float((made - expected).pow(2).mean().sqrt()) < 0.7 * step
            assert float((made - expected).abs().max()) < 5 * step
    kinds = {i.data_type for i in onnx.load(path).graph.initializer if len(i.dims) == 0}
    assert (onnx.TensorProto.UINT8 in kinds) is not signed


class First(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.a = net.a

    def forward(self, noise):
        return self.a(noise)


def _only_first(net, graph):
    from cmexport.graph.capture import CapturedGraph, trace
    from cmexport.signature import Output, Signature, known

    program = trace(First(net).eval().requires_grad_(False), {"noise": torch.zeros(2, 8, 6, 7)})
    return CapturedGraph(program, Signature((known.noise((2, 8, 6, 7)),), Output("image", (2, 40, 6, 7))))


def test_the_file_is_plain_onnx_that_the_reference_evaluator_runs(convs, tmp_path):
    net, graph, codes = convs
    eight = with_layers(graph, codes[:2], signed=False)
    model = onnx.load(written(eight, tmp_path / "m.onnx", {**spelled(), torch.ops.aten.silu.default: _silu}))
    assert {n.domain for n in model.graph.node} == {""}
    inputs = graph.examples(21)
    (found,) = ReferenceEvaluator(model).run(None, {n: v.numpy() for n, v in inputs.items()})
    x = F.silu(in_whole_numbers(net, codes[:2], inputs["noise"]))
    rest = F.conv2d(x, net.c.weight.double(), net.c.bias.double())
    rest = F.conv2d(F.silu(rest), net.d.weight.double(), net.d.bias.double(), padding=(1, 0))
    torch.testing.assert_close(torch.from_numpy(found).double(), rest.detach(), rtol=0.05, atol=0.02)


def _silu(self):
    from onnxscript import opset20 as op

    return op.Mul(self, op.Sigmoid(self))


@pytest.mark.skipif(not X86, reason="ONNX Runtime fuses these on x86")
def test_onnx_runtime_makes_one_integer_convolution_of_each(convs, tmp_path):
    _, graph, codes = convs
    eight = with_layers(graph, codes, signed=False)
    path = written(eight, tmp_path / "m.onnx", spelled())
    before = [n.op_type for n in onnx.load(path).graph.node]
    assert before.count("Conv") == len(codes)
    assert before.count("QuantizeLinear") == 2 * len(codes)
    run_file(path, graph.examples(2), "extended", tmp_path / "optimized.onnx")
    after = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert after.count("QLinearConv") == len(codes)
    assert after.count("Conv") == 0
    # Codes in at each convolution, codes out of each: nothing between a pair and its kernel.
    assert after.count("QuantizeLinear") == after.count("DequantizeLinear") == len(codes)


def test_only_a_common_zero_point_can_be_written(convs):
    from dataclasses import replace

    _, graph, codes = convs
    uneven = codes[1].zero_point.clone()
    uneven[0] += 1
    with pytest.raises(AssertionError):
        with_layers(graph, [replace(codes[1], zero_point=uneven)], signed=False)
