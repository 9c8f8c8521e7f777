"""Convolutions that hand on their codes: which do, whole numbers all the way, and what ONNX Runtime makes of them."""

from __future__ import annotations

import platform
from dataclasses import replace

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from support.eight_bits import exact_conv, run_file, spelled, written
from support.measuring import toy
from torch import nn

from cmexport.graph.tracing import to_module
from cmexport.quantize.bias_correction import correct_biases
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS
from cmexport.quantize.int8 import encode_layers, prepare
from cmexport.quantize.precision_plan import INT8, PrecisionPlan
from cmexport.targets.onnx.int8 import with_layers
from cmexport.targets.onnx.pairs.handing_on import hand_on
from cmexport.targets.onnx.pairs.translations import paired_translations

__all__ = ["toy"]

X86 = platform.machine() in ("x86_64", "AMD64")
FEW = CalibrationOptions(16, 2)


class Block(nn.Module):
    """As a decoder has it: two ReLUs inside, one behind the sum, and `between` in place of the first."""

    def __init__(self, between=F.relu):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c, self.d = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))
        self.between = between

    def forward(self, noise):
        x = F.relu(noise)
        return self.d(F.relu(self.c(F.relu(self.b(self.between(self.a(x))))) + x))


def encoded(toy, net, scheme_of=lambda _: CONVOLUTIONS, side=6, keys="abcd"):
    graph = toy(net, torch.zeros(2, 16, side, side))
    prepared = prepare(graph, PrecisionPlan({k: INT8 if k in keys else "float" for k in "abcd"}), options=FEW)
    return graph, hand_on(graph, encode_layers(prepared, scheme_of))


def handing(codes):
    """Who hands on its codes to whom, once the codes are seen to be that layer's."""
    by_key = {c.layer.key: c for c in codes}
    found = {c.layer.key: c.output.reader for c in codes if c.output is not None and c.output.reader}
    for key, reader in found.items():
        assert torch.equal(by_key[key].output.step, by_key[reader].step)
        assert torch.equal(by_key[key].output.zero_point, by_key[reader].zero_point)
    return found


def run_graph(captured, inputs):
    with torch.no_grad():
        result = to_module(captured.program)(**inputs)
    return result[0] if isinstance(result, tuple | list) else result


def test_what_a_sum_reads_stays_and_what_one_convolution_reads_is_handed_on(toy):
    _, codes = encoded(toy, Block())
    assert handing(codes) == {"a": "b", "b": "c"}
    assert all(bool((c.zero_point == 0).all()) for c in codes)


@pytest.mark.parametrize(
    ("net", "scheme_of", "keys", "expected"),
    [
        (Block(F.silu), lambda _: CONVOLUTIONS, "abcd", {"b": "c"}),
        (Block(lambda x: x), lambda _: CONVOLUTIONS, "abcd", {"a": "b", "b": "c"}),
        (Block(lambda x: F.relu(x) + x), lambda _: CONVOLUTIONS, "abcd", {"b": "c"}),
        (Block(), lambda layer: INTEGER_PRODUCTS if layer.key == "b" else CONVOLUTIONS, "abcd", {"a": "b"}),
        (Block(), lambda _: CONVOLUTIONS, "acd", {}),
    ],
    ids=["SiLU between", "nothing between", "read twice", "the reader multiplies", "the reader is in float"],
)
def test_who_hands_on(toy, net, scheme_of, keys, expected):
    assert handing(encoded(toy, net, scheme_of, keys=keys)[1]) == expected


def test_a_layer_that_two_steps_evaluate_hands_on_where_all_of_them_do(toy):
    class Twice(Block):
        def forward(self, noise):
            for _ in range(2):
                noise = self.b(F.relu(self.a(noise)))
            return self.d(F.relu(self.c(F.relu(noise)))) + self.c(F.relu(noise))

    assert handing(encoded(toy, Twice())[1]) == {"a": "b"}


def test_biases_are_corrected_before_codes_cut_what_is_below_0(toy):
    graph, codes = encoded(toy, Block())
    apart = tuple(replace(c, output=None) if c.layer.key == "a" else c for c in codes)
    found, expected = (correct_biases(graph, c, pictures=4)[0] for c in (codes, apart))
    assert found.output is codes[0].output
    assert bool(found.bias.any())
    assert torch.equal(found.bias, expected.bias)


def multiplied(key):
    return lambda layer: INTEGER_PRODUCTS if layer.key == key else CONVOLUTIONS


@pytest.mark.parametrize(
    ("between", "signed", "scheme_of"),
    [
        (F.relu, False, lambda _: CONVOLUTIONS),
        (F.relu, True, lambda _: CONVOLUTIONS),
        (lambda x: x, False, lambda _: CONVOLUTIONS),
        (lambda x: x, True, lambda _: CONVOLUTIONS),
        (F.relu, False, multiplied("c")),
    ],
    ids=["ReLU", "ReLU, signed", "nothing", "nothing, signed", "to an integer product"],
)
def test_handed_codes_are_whole_numbers_in_torch_and_in_the_file(toy, tmp_path, between, signed, scheme_of):
    net = Block(between)
    graph, codes = encoded(toy, net, scheme_of)
    assert handing(codes) == {"a": "b", "b": "c"}
    eight = with_layers(graph, codes, signed=signed)
    inputs = graph.examples(21)
    one, two, three, four = codes
    x = F.relu(inputs["noise"])
    y = between(exact_conv(one, x, net.a.bias.detach(), padding=1)).float()
    y = F.relu(exact_conv(two, y, net.b.bias.detach(), padding=1)).float()
    y = exact_conv(three, y, net.c.bias.detach(), padding=1).float()
    expected = exact_conv(four, F.relu(y + x), net.d.bias.detach(), padding=1)
    step = float(four.output.step.max())
    assert float(expected.std()) > 10 * step
    # Few sums lie between two codes, and tip.
    assert float(((run_graph(eight, inputs) - expected).abs() > 0.01 * step).double().mean()) < 0.02
    path = written(eight, tmp_path / "m.onnx", spelled())
    for optimization in ("none", "all"):
        assert float((run_file(path, inputs, optimization) - expected).pow(2).mean().sqrt()) < 0.7 * step


@pytest.mark.skipif(not X86, reason="ONNX Runtime fuses these on x86")
def test_onnx_runtime_sees_no_number_between_two_that_hand_on(toy, tmp_path):
    graph, codes = encoded(toy, Block())
    path = written(with_layers(graph, codes, signed=False), tmp_path / "m.onnx", spelled())
    run_file(path, graph.examples(2), "extended", tmp_path / "optimized.onnx")
    after = [n.op_type for n in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert after.count("QLinearConv") == 4
    # a to c are one run of codes, d another; the ReLUs left are those of the sum and of the input.
    assert after.count("QuantizeLinear") == after.count("DequantizeLinear") == after.count("Relu") == 2


@pytest.mark.skipif(not X86, reason="ONNX Runtime's convolutions are channels-last on x86")
@pytest.mark.parametrize("channels_first", [True, False])
def test_rounding_keeps_channels_first_where_it_is_asked_to(toy, tmp_path, channels_first):
    graph, codes = encoded(toy, Block(torch.tanh))
    spelling = paired_translations(channels_first=channels_first)
    path = written(with_layers(graph, codes, signed=False), tmp_path / "m.onnx", spelling)
    run_file(path, graph.examples(2), "all", tmp_path / "optimized.onnx")
    rounding = [n for n in onnx.load(tmp_path / "optimized.onnx").graph.node if n.op_type == "QuantizeLinear"]
    axes = {helper.get_attribute_value(a) for n in rounding for a in n.attribute if a.name == "axis"}
    assert (axes == {1}) is channels_first
