"""Own spellings of single operators, run in ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower


@pytest.fixture
def compare(toy, tmp_path):
    """A function: lower a module alone, run it, compare it with PyTorch and return the file's operators."""

    def run(module, noise, ep="cpu"):
        lower(toy(module, noise), OnnxOptions(ep=ep), tmp_path, lambda _: None)
        path = tmp_path / "model.onnx"
        for optimization in ("none", "all"):
            with OnnxRuntimeRunner(path, optimization, threads=1) as session:
                image = session({"noise": noise.numpy()})["image"]
            np.testing.assert_allclose(image, module(noise).numpy(), rtol=1e-5, atol=2e-6)
        return [n.op_type for n in onnx.load(path).graph.node]

    return run


class Norm(nn.Module):
    def __init__(self, weight, bias, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8)) if weight else None
        self.bias = nn.Parameter(torch.randn(8)) if bias else None
        self.eps = eps

    def forward(self, noise):
        return F.group_norm(noise, 4, self.weight, self.bias, self.eps)


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (False, False), (True, False), (False, True)])
def test_group_norm(compare, weight, bias):
    torch.manual_seed(0)
    operators = compare(Norm(weight, bias, eps=0.3), torch.randn(2, 8, 3, 5) * 2 + 1)
    assert operators.count("InstanceNormalization") == 1
    assert operators.count("BatchNormalization") == (1 if weight or bias else 0)


class Attention(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, noise):
        q, k, v = noise.chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)


@pytest.mark.parametrize(("scale", "products"), [(None, 1), (0.3, 1), (1.0, 0)])
def test_attention(compare, scale, products):
    torch.manual_seed(0)
    operators = compare(Attention(scale), torch.randn(2, 3, 7, 12))
    assert operators.count("Mul") == products
    assert operators.count("MatMul") == 2


class Up(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.kwargs = kwargs

    def forward(self, noise):
        return F.interpolate(noise, mode="nearest", **self.kwargs)


@pytest.mark.parametrize("kwargs", [{"scale_factor": 2.0}, {"size": (6, 15)}])
def test_nearest_upsampling(compare, kwargs):
    assert compare(Up(**kwargs), torch.randn(1, 2, 3, 5)) == ["Resize"]


class Silu(nn.Module):
    def forward(self, noise):
        return F.silu(noise)


@pytest.mark.parametrize(("ep", "operators"), [("cpu", ["QuickGelu"]), ("qnn", ["Sigmoid", "Mul"])])
def test_silu(compare, ep, operators):
    assert compare(Silu(), torch.linspace(-20, 20, 64).reshape(1, 1, 8, 8), ep) == operators
