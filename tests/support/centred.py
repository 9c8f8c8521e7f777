"""A graph of two convolutions and a linear layer whose channels differ in reach, and its layers in 8 bits."""

from __future__ import annotations

import pytest
import torch

from cmexport.graph.capture import CapturedGraph
from cmexport.quantize.calibration import CalibrationOptions, calibrate
from cmexport.quantize.codes import INTEGER_PRODUCTS, RoundingOptions, encode
from cmexport.quantize.layers import find_layers


class Net(torch.nn.Module):
    """Inputs after SiLU, as in the networks this is for: they end at -0.28 and reach as far as each channel does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("reach", torch.logspace(-1.5, 1.5, 64).reshape(1, -1, 1, 1))
        self.padded = torch.nn.Conv2d(64, 64, 3, padding=1)
        self.strided = torch.nn.Conv2d(64, 48, 3, stride=2, padding=(1, 0), bias=False)
        self.linear = torch.nn.Linear(48, 64)

    def forward(self, noise):
        y = torch.nn.functional.silu(noise * self.reach)
        y = torch.nn.functional.silu(self.padded(y))
        y = torch.nn.functional.silu(self.strided(y))
        return self.linear(y.flatten(2).transpose(1, 2))


@pytest.fixture(scope="session")
def graph(toy) -> CapturedGraph:
    return toy(Net(), noise=torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="session")
def codes(graph):
    layers = find_layers(graph)
    found = calibrate(graph, layers, CalibrationOptions(pictures=64, gram_pictures=0))
    return tuple(encode(x, found.layers[x.key], INTEGER_PRODUCTS, RoundingOptions()) for x in layers)


@pytest.fixture(scope="session")
def noise():
    return torch.randn(1, 64, 8, 8, generator=torch.Generator().manual_seed(99))
