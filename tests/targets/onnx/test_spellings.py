"""Which convolutions are integer products and which stand between pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.eight_bits import quick_calibration
from support.measuring import toy
from torch import nn

from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.onnx import int8
from cmexport.targets.onnx.providers import profile_for

__all__ = ["toy"]


class Shrinking(nn.Module):
    """To 32x16 positions, then to 16x16, then handed on within 16x16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(8, 16, 3, padding=1)
        strides = (1, (2, 1), 1, 1)
        self.large, self.small, self.handing, self.last = (nn.Conv2d(16, 16, 3, s, 1) for s in strides)

    def forward(self, noise):
        x = F.silu(self.small(F.silu(self.large(F.silu(self.stem(noise))))))
        return self.last(F.relu(self.handing(x)))


@pytest.mark.parametrize(("amplification", "products"), [(14.6, ["small", "last"]), (1.0, [])])
def test_small_results_stay_whole_where_the_sampler_multiplies_rounding(toy, monkeypatch, amplification, products):
    monkeypatch.setattr(int8, "most_harmful_outputs", lambda *_: frozenset())
    graph = replace(toy(Shrinking(), torch.zeros(1, 8, 32, 16)), amplification=amplification)
    with quick_calibration(4, 2):
        prepared = int8.prepare_int8(graph, PrecisionPlan(), profile_for("cpu"), lambda _: None)
    made = int8.to_int8(prepared, profile_for("cpu"), lambda _: None)
    assert made.facts["int8"] == ["large", "small", "handing", "last"]
    assert made.facts["integer_products"] == products
