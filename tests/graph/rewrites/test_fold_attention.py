"""fold_attention: norm affines and the query scale are inside the projections, for every layout of q, k and v."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmexport.graph.fxtools import Editor, aten
from cmexport.graph.rewrites.fold_attention import REWRITE, SDPA
from cmexport.graph.tracing import to_module, trace

C, HEADS, SIDE = 8, 2, 3


class Block(nn.Module):
    """An attention block over (N, C, H, W) in one of the layouts found in the wild."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        self.norm = nn.GroupNorm(2, C)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        if layout == "separate":
            self.q, self.k, self.v = (nn.Linear(C, C, bias=b) for b in (True, False, True))
        else:
            self.qkv = nn.Conv2d(C, 3 * C, 1) if layout != "tokens" else nn.Linear(C, 3 * C)

    def forward(self, noise):
        n, width = noise.shape[0], C // HEADS
        h = self.norm(noise)
        if self.layout == "shuffled":
            h = h.reshape(n, 2, C // 2, SIDE, SIDE).transpose(1, 2).reshape(noise.shape)
        if self.layout in ("separate", "tokens"):
            tokens = h.flatten(2).transpose(1, 2)
            parts = (
                (self.q(tokens), self.k(tokens), self.v(tokens))
                if self.layout == "separate"
                else self.qkv(tokens).chunk(3, dim=-1)
            )
            q, k, v = (p.reshape(n, -1, HEADS, width).transpose(1, 2) for p in parts)
        elif self.layout in ("thirds", "shuffled"):
            parts = self.qkv(h).reshape(n, 3 * HEADS, width, -1).chunk(3, dim=1)
            q, k, v = (p.transpose(2, 3) for p in parts)
        elif self.layout == "head_major":
            parts = self.qkv(h).reshape(n, HEADS, 3 * width, -1).chunk(3, dim=2)
            q, k, v = (p.transpose(2, 3) for p in parts)
        else:  # interleaved per channel, as in EDM's networks
            q, k, v = self.qkv(h).reshape(n, HEADS, width, 3, -1).permute(3, 0, 1, 4, 2)
        return F.scaled_dot_product_attention(q, k, v)


def fold(network, x):
    module = to_module(trace(network.eval().requires_grad_(False), {"noise": x}))
    editor = Editor(module)
    outcome = REWRITE.apply(editor)
    editor.clean()
    return module, outcome


def only(module, target):
    (node,) = [n for n in module.graph.nodes if n.target is target]
    return node


@pytest.mark.parametrize("layout", ["thirds", "head_major", "tokens", "separate", "interleaved", "shuffled"])
def test_affine_and_scale_move_into_every_layout(layout):
    torch.manual_seed(1)
    network, x = Block(layout), torch.randn(2, C, SIDE, SIDE)
    module, outcome = fold(network, x)
    assert outcome.note == "1 norm affines and 1 query scales folded into projections"
    assert only(module, aten.group_norm.default).args[2:4] == (None, None)
    assert only(module, SDPA).kwargs["scale"] == 1.0
    torch.testing.assert_close(module(noise=x), network(x), rtol=1e-5, atol=1e-5)


class Strange(nn.Module):
    """Attention that must be left alone: keys are the queries, so scaling one scales both."""

    def __init__(self):
        super().__init__()
        self.qk = nn.Conv2d(C, C, 1)

    def forward(self, noise):
        tokens = self.qk(noise).reshape(noise.shape[0], 1, C, -1).transpose(2, 3)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


def test_shared_queries_and_keys_are_left_alone():
    network, x = Strange(), torch.randn(1, C, SIDE, SIDE)
    module, outcome = fold(network, x)
    assert outcome.applied == 0
    torch.testing.assert_close(module(noise=x), network(x))


class Elsewhere(nn.Module):
    """A norm that is also read by something that is not a projection, or by one with padding."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.norm = nn.GroupNorm(2, C)
        nn.init.normal_(self.norm.bias)
        self.conv = nn.Conv2d(C, C, 1 if kind == "residual" else 3, padding=0 if kind == "residual" else 1)

    def forward(self, noise):
        h = self.norm(noise)
        return self.conv(h) + h if self.kind == "residual" else self.conv(h)


@pytest.mark.parametrize("kind", ["residual", "padded"])
def test_norms_with_other_readers_keep_their_affine(kind):
    network, x = Elsewhere(kind), torch.randn(1, C, SIDE, SIDE)
    module, outcome = fold(network, x)
    assert outcome.applied == 0
    assert only(module, aten.group_norm.default).args[2] is not None
    torch.testing.assert_close(module(noise=x), network(x))


class ComputedScale(nn.Module):
    """A norm whose gamma is computed and whose beta is stored: folding only beta would drop gamma."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(torch.randn(C))
        self.conv = nn.Conv2d(C, C, 1)

    def forward(self, noise, label):
        gamma = label.to(torch.float32).expand(C) + 2.0
        return self.conv(F.group_norm(noise, 2, gamma, self.beta))


def test_a_computed_gamma_is_not_dropped():
    network, x, label = ComputedScale(), torch.randn(1, C, SIDE, SIDE), torch.tensor([3])
    module = to_module(trace(network.requires_grad_(False), {"noise": x, "label": label}))
    editor = Editor(module)
    REWRITE.apply(editor)
    editor.clean()
    torch.testing.assert_close(module(noise=x, label=label), network(x, label))
