"""How large values become, on graphs whose values are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cmexport.graph import ranges
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.ranges import SAFE, overflowing, peaks
from cmexport.graph.tracing import to_module, trace
from cmexport.signature import Normal, Output, Signature
from cmexport.signature.border import Input

SHAPE = (2, 3, 4, 4)


def graph_of(module: nn.Module) -> CapturedGraph:
    signature = Signature((Input("noise", SHAPE, law=Normal()),), Output("image", SHAPE))
    return CapturedGraph(trace(module, {"noise": torch.zeros(SHAPE)}), signature)


class Masked(nn.Module):
    """Doubles, adds a mask of minus infinity as attention has it, and takes it away again."""

    def forward(self, noise):
        doubled = noise * 2.0
        masked = doubled + torch.where(noise > 0.0, torch.finfo(torch.float32).min, 0.0)
        return torch.where(noise > 0.0, doubled, masked)


def test_the_largest_of_eight_pictures_and_no_mask():
    graph = graph_of(Masked())
    module = to_module(graph.program)
    found = {node.name: peak for node, peak in peaks(module, graph.signature).items()}
    drawn = torch.cat([graph.signature.examples(run)["noise"] for run in range(4)])
    assert found["noise"] == pytest.approx(float(drawn.abs().max()))
    assert found["mul"] == pytest.approx(2.0 * float(drawn.abs().max()))
    assert found["add"] == pytest.approx(2.0 * float(drawn[drawn <= 0.0].abs().max()))


class Large(nn.Module):
    def forward(self, noise):
        large = (noise * (8.0 * SAFE)).reshape(2, 48)
        small = torch.tanh(large).reshape(SHAPE)
        return small * 0.5


def test_what_reads_a_large_value_stays_wide_too_and_no_more():
    assert overflowing(graph_of(Large())) == ("mul", "reshape", "tanh")
    assert overflowing(graph_of(Masked())) == ()


@pytest.mark.parametrize(("large", "huge", "runs"), [(10**9, 10**9, 4), (0, 10**9, 1), (0, 0, 1)])
def test_fewer_pictures_of_larger_models(monkeypatch, large, huge, runs):
    """Two pictures a run here: eight pictures, two, one."""

    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, noise):
            return noise * self.weight

    monkeypatch.setattr(ranges, "LARGE_MODEL", large)
    monkeypatch.setattr(ranges, "HUGE_MODEL", huge)
    graph = graph_of(Once())
    module = to_module(graph.program)
    found = {node.name: peak for node, peak in peaks(module, graph.signature).items()}
    drawn = torch.cat([graph.signature.examples(run)["noise"] for run in range(runs)])
    assert found["mul"] == pytest.approx(float(drawn.abs().max()))
