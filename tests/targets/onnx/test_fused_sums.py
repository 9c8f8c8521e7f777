"""Residual sums inside convolutions: the same pictures as PyTorch's, and which sums stay what they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower


class Sums(nn.Module):
    """A sum `form` of what two convolutions make of the same picture."""

    def __init__(self, form):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1, bias=False)
        self.form = form

    def forward(self, noise):
        return self.form(noise, self.first, self.second)


def operators_of(toy, tmp_path, form, **options):
    torch.manual_seed(2)
    module = Sums(form)
    noise = torch.randn(2, 3, 9, 7)
    lower(toy(module, noise), OnnxOptions(**options), tmp_path, lambda _: None)
    for optimization in ("none", "all"):
        with OnnxRuntimeRunner(tmp_path / "model.onnx", optimization, threads=1) as session:
            image = session({"noise": noise.numpy()})["image"]
        np.testing.assert_allclose(image, module(noise).detach().numpy(), rtol=1e-5, atol=2e-6)
    return [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda x, f, g: g(x) + f(x.relu()), ["Relu", "Conv", "FusedConv"]),
        (lambda x, f, g: (y := f(x)) + g(y), ["Conv", "FusedConv"]),
        (lambda x, f, g: (y := g(x) + f(x)) + g(y), ["Conv", "FusedConv", "FusedConv"]),
        (lambda x, f, g: f(x) + x, ["Conv", "Add"]),
        (lambda x, f, g: g(f(x).sigmoid()) + f(x).sigmoid(), ["Conv", "Sigmoid", "Conv", "Add"]),
    ],
    ids=["of two", "without a bias", "one after the other", "the picture", "what is in rows"],
)
def test_a_convolution_takes_its_sum_in(toy, tmp_path, form, expected):
    assert sorted(operators_of(toy, tmp_path, form)) == sorted(expected)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, f, g: f(x) + f(x)[:, :1],
        lambda x, f, g: (y := f(x)) + y,
        lambda x, f, g: (y := f(x)) * (y + (z := g(x))) * z,
    ],
    ids=["another shape", "twice itself", "read elsewhere"],
)
def test_other_sums_stay(toy, tmp_path, form):
    assert "FusedConv" not in operators_of(toy, tmp_path, form)


@pytest.mark.parametrize(("channels", "groups", "taken"), [(16, 1, 1), (24, 1, 0), (16, 16, 0)])
def test_not_beside_a_convolution_that_the_quick_one_leaves_out(toy, tmp_path, channels, groups, taken):
    torch.manual_seed(3)
    module = nn.Module()
    module.wide = nn.Conv2d(3, channels, 1)
    module.around = nn.Conv2d(channels, 16, 1, groups=groups)
    module.inside = nn.Conv2d(3, 16, 3, padding=1)
    module.forward = lambda noise: module.around(module.wide(noise).relu()) + module.inside(noise)
    noise = torch.randn(1, 3, 9, 7)
    lower(toy(module, noise), OnnxOptions(), tmp_path, lambda _: None)
    assert [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node].count("FusedConv") == taken


@pytest.mark.parametrize("options", [{"ep": "web"}, {"rewrites": "none"}, {"precision": "fp16"}])
def test_only_where_the_processor_s_own_kernels_run_float32(toy, tmp_path, options):
    torch.manual_seed(2)
    module = Sums(lambda x, f, g: f(x) + g(x))
    lower(toy(module, torch.randn(1, 3, 9, 7)), OnnxOptions(**options), tmp_path, lambda _: None)
    assert "FusedConv" not in [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node]
