"""Convolutions to few channels: the same sums as PyTorch's, and which convolutions stay what they are."""

from __future__ import annotations

import onnx
import pytest
import torch
from support.eight_bits import run_file, written
from support.measuring import toy
from torch import nn

from cmexport.targets.onnx.narrow import narrow_translations

__all__ = ["toy"]

SIDE = 64


def file_of(toy, tmp_path, conv, size):
    torch.manual_seed(1)
    for p in conv.parameters():
        nn.init.normal_(p, std=0.2)
    net = nn.Module()
    net.conv = conv
    net.forward = lambda noise: conv(noise)
    graph = toy(net, torch.zeros(size))
    return graph, written(graph, tmp_path / "m.onnx", narrow_translations())


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(32, 3, 3, padding=1), (1, 32, SIDE, SIDE)),
        (nn.Conv2d(32, 3, 3, padding=1, bias=False), (2, 32, SIDE, SIDE + 3)),
        (nn.Conv2d(32, 2, (3, 5), padding=(1, 2)), (1, 32, SIDE + 2, SIDE)),
    ],
    ids=["3x3", "a batch, no bias", "3x5"],
)
def test_few_channels_are_a_product_and_the_same_sums(toy, tmp_path, conv, size):
    graph, path = file_of(toy, tmp_path, conv, size)
    inputs = graph.examples(3)
    expected = conv.double()(inputs["noise"].double()).detach()
    for optimization in ("none", "all"):
        found = run_file(path, inputs, optimization).double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    kinds = [n.op_type for n in onnx.load(path).graph.node]
    assert kinds.count("MatMul") == kinds.count("Col2Im") == 1
    assert "Conv" not in kinds


@pytest.mark.parametrize(
    ("conv", "side"),
    [
        (nn.Conv2d(32, 3, 3, padding=1), SIDE - 1),
        (nn.Conv2d(32, 4, 3, padding=1), SIDE),
        (nn.Conv2d(32, 3, 3), SIDE),
        (nn.Conv2d(32, 3, 3, padding=1, stride=2), SIDE),
        (nn.Conv2d(32, 3, 3, padding=2, dilation=2, bias=False), SIDE),
        (nn.Conv2d(64, 2, 3, padding=1, groups=2), SIDE),
        (nn.Conv2d(16, 3, 1), SIDE),
        (nn.Conv2d(145, 16, 3, padding=1), SIDE),
    ],
    ids=["small", "four channels of 32", "no padding", "stride", "dilation", "groups", "1x1", "a whole block"],
)
def test_other_convolutions_stay(toy, tmp_path, conv, side):
    graph, path = file_of(toy, tmp_path, conv, (1, conv.in_channels, side, side))
    inputs = graph.examples(3)
    expected = conv.double()(inputs["noise"].double()).detach()
    torch.testing.assert_close(run_file(path, inputs).double(), expected, rtol=1e-5, atol=2e-5)
    assert [n.op_type for n in onnx.load(path).graph.node] == ["Conv"]
