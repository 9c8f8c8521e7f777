"""pack_attention: every layout of q, k and v becomes the same packed operator, and the rest is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmexport.graph.rewrites import fold_attention
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.targets.onnx.rewrites import OWN_REWRITES

C, HEADS, WIDTH, SIDE = 8, 2, 4, 3
PACKED = torch.ops.cmexport.packed_attention.default


class Block(nn.Module):
    """Attention over (N, C, H, W) with its output projection, in one of the layouts found in the wild."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        self.norm = nn.GroupNorm(2, C)
        if layout in ("separate", "without biases"):
            self.q, self.k, self.v = (nn.Linear(C, C, bias=layout == "separate") for _ in range(3))
            self.proj = nn.Linear(C, C)
        else:
            self.qkv = nn.Conv2d(C, 3 * C, 1)
            self.proj = nn.Conv2d(C, C, 1)
        for p in self.parameters():
            nn.init.normal_(p, std=0.5)

    def forward(self, noise):
        n = noise.shape[0]
        h = self.norm(noise)
        if self.layout in ("separate", "without biases"):
            tokens = h.flatten(2).transpose(1, 2)
            q, k, v = (m(tokens).reshape(n, -1, HEADS, WIDTH).transpose(1, 2) for m in (self.q, self.k, self.v))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, C)
            return noise + self.proj(mixed).transpose(1, 2).reshape(noise.shape)
        qkv = self.qkv(h)
        if self.layout == "head_major":
            parts = qkv.reshape(n, HEADS, 3 * WIDTH, -1).chunk(3, dim=2)
        else:
            parts = qkv.reshape(n, 3 * HEADS, WIDTH, -1).chunk(3, dim=1)
        q, k, v = (p.transpose(2, 3) for p in parts)
        if self.layout == "values as keys":
            k = v
        mixed = F.scaled_dot_product_attention(q, k, v)
        return noise + self.proj(mixed.transpose(2, 3).reshape(noise.shape))


def pack(toy, module, noise):
    graph = apply_rewrites(toy(module, noise), [fold_attention.REWRITE, *OWN_REWRITES])
    return to_module(graph.program), {r.name: r for r in graph.rewrites}["pack_attention"]


@pytest.mark.parametrize("layout", ["thirds", "head_major", "separate", "without biases", "values as keys"])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_layout_is_packed(toy, layout, batch):
    torch.manual_seed(0)
    block, noise = Block(layout), torch.randn(batch, C, SIDE, SIDE)
    module, report = pack(toy, block, noise)
    assert report.applied == 1
    assert report.max_relative_error < 1e-12
    targets = [n.target for n in module.graph.nodes if n.op == "call_function"]
    assert targets.count(PACKED) == 1
    assert torch.ops.aten.scaled_dot_product_attention.default not in targets
    torch.testing.assert_close(module(noise=noise), block(noise), rtol=1e-4, atol=1e-5)


class Cross(nn.Module):
    """Queries and keys read different tensors: not self-attention."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Conv2d(C, C, 1), nn.Conv2d(C, 2 * C, 1)

    def forward(self, noise):
        n = noise.shape[0]
        q = self.q(noise).reshape(n, HEADS, WIDTH, -1).transpose(2, 3)
        k, v = (
            p.transpose(2, 3) for p in self.kv(torch.sigmoid(noise)).reshape(n, 2 * HEADS, WIDTH, -1).chunk(2, dim=1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(2, 3).reshape(noise.shape)


def test_cross_attention_is_left_alone(toy):
    torch.manual_seed(0)
    block, noise = Cross(), torch.randn(1, C, SIDE, SIDE)
    module, report = pack(toy, block, noise)
    assert report.applied == 0
    torch.testing.assert_close(module(noise=noise), block(noise), rtol=1e-4, atol=1e-5)


def test_the_torch_operator_is_attention():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, C), torch.randn(C, 3 * C), torch.randn(3 * C)
    q, k, v = (x @ weight + bias).reshape(2, 5, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
    expected = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
    got = torch.ops.cmexport.packed_attention(x, weight, bias, HEADS)
    torch.testing.assert_close(got, expected.transpose(1, 2).reshape(2, 5, C))
    torch.library.opcheck(PACKED, (x, weight, bias, HEADS), test_utils=("test_schema", "test_faketensor"))
