"""Tokens in steps: in whose gamma and beta they are counted, and that they are the same whole numbers."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from support.eight_bits import exact_linear, run_file, spelled, written
from support.measuring import toy
from torch import nn

from cmexport.graph.tracing import to_module
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import INTEGER_PRODUCTS
from cmexport.quantize.int8 import encode_layers, prepare
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.onnx.contrib import packed_attention
from cmexport.targets.onnx.int8 import PACKED, with_layers

__all__ = ["toy"]

C = 32


class Tokens(nn.Module):
    """A norm and the layers that read it; `other` reads it as well."""

    def __init__(self, layers=3, *, affine=True, beta=True, other=False):
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.LayerNorm(C, elementwise_affine=affine, bias=beta)
        for p in self.norm.parameters():
            nn.init.normal_(p)
        self.layers = nn.ModuleList(nn.Linear(C, 48) for _ in range(layers))
        self.other = other

    def forward(self, noise):
        x = self.norm(noise)
        total = sum(layer(x) for layer in self.layers)
        return total + x.mean() if self.other else total


def in_8_bits(toy, net, in_float=()):
    graph = toy(net, torch.zeros(2, 5, C))
    prepared = prepare(graph, PrecisionPlan({}), operators=PACKED, options=CalibrationOptions(8, 2))
    codes = encode_layers(prepared, lambda _: INTEGER_PRODUCTS, in_float=in_float)
    return graph, with_layers(graph, codes, signed=False), codes


def run_graph(captured, inputs):
    with torch.no_grad():
        result = to_module(captured.program)(**inputs)
    return result[0] if isinstance(result, tuple | list) else result


def multiplications(captured):
    return sum(str(n.target) == "aten.mul.Tensor" for n in captured.program.graph.nodes)


@pytest.mark.parametrize("beta", [True, False])
def test_layers_that_read_one_norm_round_it_once(toy, tmp_path, beta):
    net = Tokens(beta=beta)
    graph, eight, codes = in_8_bits(toy, net)
    assert multiplications(eight) == 0
    inputs = graph.examples(2)
    x = net.norm(inputs["noise"]).detach()
    expected = sum(exact_linear(c, x, layer.bias.detach()) for c, layer in zip(codes, net.layers, strict=True))
    found = run_graph(eight, inputs).double()
    # x / step + zero and its rounding differ in the last bit from rounding first.
    assert float(((found - expected).abs() < 1e-4).double().mean()) > 0.97
    path = written(eight, tmp_path / "m.onnx", spelled())
    close = (run_file(path, inputs, optimized=tmp_path / "optimized.onnx").double() - expected).abs() < 1e-4
    assert float(close.double().mean()) > 0.97
    kinds = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("LayerNormalization") == kinds.count("QuantizeLinear") == 1
    assert kinds.count("MatMulIntegerToFloat") == 3


@pytest.mark.parametrize(
    ("net", "in_float"),
    [(Tokens(1, affine=False), ()), (Tokens(1, other=True), ()), (Tokens(2), ("layers.1",))],
    ids=["no gamma", "the graph reads it", "a layer in float reads it"],
)
def test_other_norms_stay_and_tokens_are_counted_behind_them(toy, net, in_float):
    graph, eight, codes = in_8_bits(toy, net, in_float)
    assert multiplications(eight) == len(codes) == 1
    inputs = graph.examples(2)
    x = net.norm(inputs["noise"]).detach()
    expected = exact_linear(codes[0], x, net.layers[0].bias.detach())
    expected = expected + (x.mean() if net.other else net.layers[1](x).detach() if in_float else 0)
    close = (run_graph(eight, inputs).double() - expected).abs() < 1e-4
    assert float(close.double().mean()) > 0.97


def test_attention_reads_a_norm_in_steps(toy, tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.norm = nn.LayerNorm(C)
            self.weight, self.bias = nn.Parameter(0.2 * torch.randn(C, 3 * C)), nn.Parameter(torch.randn(3 * C))
            nn.init.normal_(self.norm.weight)

        def forward(self, noise):
            return packed_attention(self.norm(noise), self.weight, self.bias, 2)

    net = Attention()
    graph, eight, (codes,) = in_8_bits(toy, net)
    inputs = graph.examples(2)
    qkv = exact_linear(codes, net.norm(inputs["noise"]).detach(), net.bias.detach())
    q, k, v = qkv.reshape(2, 5, 6, -1).transpose(1, 2).chunk(3, dim=1)
    expected = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).reshape(2, 5, C)
    assert float((run_graph(eight, inputs) - expected).abs().max()) < 0.05
    path = written(eight, tmp_path / "m.onnx", spelled())
    assert float((run_file(path, inputs) - expected).abs().max()) < 0.05
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert kinds.count("QAttention") == 1
    assert "Transpose" not in kinds
