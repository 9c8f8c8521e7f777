"""Own spellings of single operators, run in ONNX Runtime against PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.targets.onnx import contrib
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


class ChannelNorm(nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6)) if weight else None
        self.bias = nn.Parameter(torch.randn(6)) if bias else None

    def forward(self, noise):
        return F.group_norm(noise, 6, self.weight, self.bias, 0.2)


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (False, False), (True, False), (False, True)])
def test_group_norm_with_a_group_for_each_channel_is_one_operator(compare, weight, bias):
    torch.manual_seed(0)
    operators = compare(ChannelNorm(weight, bias), torch.randn(2, 6, 3, 5) * 2 + 1)
    assert operators == ["InstanceNormalization"]


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


class _ManyTokens(nn.Module):
    """Heads over 16 tokens, their widths 8 together."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv = heads, nn.Conv2d(4, 24, 1)

    def forward(self, noise):
        n, _, height, width = noise.shape
        parts = self.qkv(noise).reshape(n, 3 * self.heads, 8 // self.heads, -1).transpose(2, 3).chunk(3, dim=1)
        return nn.functional.scaled_dot_product_attention(*parts).transpose(2, 3).reshape(n, 8, height, width)


@pytest.mark.parametrize(("heads", "precision"), [(1, "fp32"), (2, "fp32"), (2, "fp16")])
def test_attention_with_many_logits_never_holds_them_all(toy, heads, precision, tmp_path, monkeypatch):
    """MultiHeadAttention makes them block by block; 16 tokens are many here."""
    monkeypatch.setattr(contrib, "LARGE_LOGITS", 4 * heads * 16 * 16 - 1)
    torch.manual_seed(0)
    network, x = _ManyTokens(heads), torch.randn(1, 4, 4, 4)
    lowered = lower(toy(network, x), OnnxOptions(precision=precision), tmp_path, lambda _: None)
    assert "MultiHeadAttention" in [n.op_type for n in onnx.load(tmp_path / lowered.files[0]).graph.node]
    with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        (found,) = run({"noise": x.numpy()}).values()
    accuracy = 1e-6 if precision == "fp32" else 2e-3
    torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=0, atol=accuracy)


def test_attention_with_few_logits_keeps_its_form(toy, tmp_path):
    lowered = lower(toy(_ManyTokens(2), torch.randn(1, 4, 4, 4)), OnnxOptions(), tmp_path, lambda _: None)
    kinds = [n.op_type for n in onnx.load(tmp_path / lowered.files[0]).graph.node]
    assert "MultiHeadAttention" not in kinds


@pytest.mark.parametrize(
    ("heads", "tokens", "large"), [(8, 4096, True), (8, 1024, True), (1, 4096, True), (1, 1024, False), (8, 256, False)]
)
def test_which_attentions_of_stable_diffusion_are_large(heads, tokens, large):
    assert contrib.has_large_logits((1, heads, tokens, 64), (1, heads, tokens, 64)) == large
    assert not contrib.has_large_logits((1, heads, tokens, 64), (1, heads, 77, 64))
