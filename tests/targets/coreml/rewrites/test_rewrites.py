"""Each form against the operator it replaces, in float64, over the shapes it can meet."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cmexport.errors import UsageError
from cmexport.graph.evaluate import exact_picture
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.targets.coreml.rewrites import (
    attention,
    chosen_rewrites,
    flat_renoise,
    image_layout,
    label_columns,
    native_norm,
)


def kinds(captured):
    return [str(n.target).removeprefix("aten.") for n in captured.program.graph.nodes if n.op == "call_function"]


def difference(before, after, inputs):
    first, second = (exact_picture(to_module(c.program), inputs) for c in (before, after))
    assert first.shape == second.shape
    return float((first - second).abs().max() / first.abs().max())


class Norm(nn.Module):
    def __init__(self, channels, groups, affine):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-4, affine=affine)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 1.0)

    def forward(self, noise):
        return self.norm(noise)


@settings(max_examples=12, deadline=None, database=None)
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 4]),
    size=st.lists(st.integers(2, 5), min_size=1, max_size=2),
    affine=st.booleans(),
)
def test_norms_become_instance_norms_of_four_dimensions(toy, batch, groups, size, affine):
    noise = 50.0 * torch.randn(batch, 8, *size)
    before = toy(Norm(8, groups, affine), noise=noise)
    after = apply_rewrites(before, [native_norm.REWRITE])
    assert difference(before, after, {"noise": noise}) < 1e-6
    assert "group_norm.default" not in kinds(after)
    assert kinds(after).count("instance_norm.default") == 1
    assert kinds(after).count("mul.Tensor") == affine


class Attention(nn.Module):
    """Heads in front of a 1x1 projection, thirds or head by head; q, k and v channel-major or not."""

    def __init__(self, scale, head_major, channel_major, projected):
        super().__init__()
        self.scale, self.head_major, self.channel_major = scale, head_major, channel_major
        self.qkv = nn.Conv2d(8, 24, 1) if projected else nn.AvgPool2d(1)
        # A second operand at the end: views in front of the output are left out when rewrites are measured.
        self.register_buffer("gain", torch.tensor([2.0]))

    def forward(self, noise):
        x = self.qkv(noise)
        n, c, h, w = x.shape
        if self.head_major:
            q, k, v = x.reshape(n, 2, c // 2, h * w).chunk(3, dim=2)
        else:
            q, k, v = x.reshape(n, 6, c // 6, h * w).chunk(3, dim=1)
        q, k, v = (t.transpose(2, 3) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.gain * (y.transpose(2, 3).reshape(n, c // 3, h, w) if self.channel_major else y)


@pytest.mark.parametrize("form", [attention.FUSED, attention.MATMUL], ids=["fused", "products"])
@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
@pytest.mark.parametrize(("head_major", "channel_major"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize("projected", [True, False])
def test_attention_in_either_form(toy, form, scale, head_major, channel_major, projected):
    noise = torch.randn(2, 8 if projected else 24, 4, 4)
    before = toy(Attention(scale, head_major, channel_major, projected), noise=noise)
    after = apply_rewrites(before, [form])
    assert difference(before, after, {"noise": noise}) < 1e-6
    fused = form is attention.FUSED
    (report,) = after.rewrites
    assert report.applied == 1
    assert kinds(after).count("scaled_dot_product_attention.default") == fused
    assert kinds(after).count("matmul.default") == (0 if fused else 2)
    if fused:
        assert kinds(after).count("transpose.int") == 1 + channel_major
        node = next(n for n in after.program.graph.nodes if "scaled_dot" in str(n.target))
        # The operation has no scale: with one, coremltools would take it apart.
        assert not node.kwargs
        assert len(node.args) == 3
    if projected:
        assert kinds(after).count("mul.Tensor") == 1


def test_large_batches_are_not_given_to_the_fused_operation(toy):
    noise = torch.randn(10, 8, 2, 2)
    after = apply_rewrites(toy(Attention(None, False, True, True), noise=noise), [attention.FUSED])
    assert "scaled_dot_product_attention.default" not in kinds(after)


class Masked(nn.Module):
    def forward(self, noise):
        return F.scaled_dot_product_attention(noise, noise, noise, is_causal=True)


@pytest.mark.parametrize("form", [attention.FUSED, attention.MATMUL])
def test_causal_attention_is_left_to_coremltools(toy, form):
    before = toy(Masked(), noise=torch.randn(1, 2, 4, 8))
    after = apply_rewrites(before, [form])
    assert after.rewrites[0].applied == 0


class Labels(nn.Module):
    def __init__(self, extra=False):
        super().__init__()
        self.register_buffer("table", torch.randn(5, 12))
        self.extra = extra

    def forward(self, noise, label):
        row = F.embedding(label, self.table)
        a, b = row.split_with_sizes([8, 4], 1)
        x = noise * a.reshape(-1, 8, 1, 1)
        x = x + (a.sum(1, keepdim=True).reshape(-1, 1, 1, 1) if self.extra else 0)
        return x[:, :4] + b.reshape(-1)[None].reshape(-1, 4, 1, 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_labels_row_is_shaped_once(toy, batch):
    inputs = {"noise": torch.randn(batch, 8, 4, 4), "label": torch.arange(batch)}
    before = toy(Labels(), **inputs)
    after = apply_rewrites(before, [label_columns.REWRITE])
    assert difference(before, after, inputs) == 0.0
    assert sum(kind in ("reshape.default", "view.default") for kind in kinds(after)) == 1


def test_a_row_with_other_uses_keeps_its_shape(toy):
    inputs = {"noise": torch.randn(2, 8, 4, 4), "label": torch.arange(2)}
    after = apply_rewrites(toy(Labels(extra=True), **inputs), [label_columns.REWRITE])
    assert after.rewrites[0].applied == 0


class Words(nn.Module):
    """Two lookups of a sentence's words: rows (N, T, D), which are no label's."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 8)

    def forward(self, noise, tokens):
        first, second = self.table(tokens).reshape(-1, 16).split(8, dim=1)
        return noise * first[:, :, None, None] + second[:, :, None, None]


def test_words_of_a_prompt_stay_rows(toy):
    inputs = {"noise": torch.randn(2, 8, 4, 4), "tokens": torch.arange(4).reshape(2, 2)}
    before = toy(Words(), **inputs)
    after = apply_rewrites(before, [label_columns.REWRITE])
    assert after.rewrites[0].applied == 0
    assert difference(before, after, inputs) == 0.0


class Steps(nn.Module):
    def forward(self, noise, renoise):
        return noise + 2.0 * renoise[0] + 3.0 * renoise[renoise.shape[0] - 1]


@pytest.mark.parametrize(("steps", "batch"), [(1, 1), (1, 2), (3, 2)])
def test_later_noise_has_four_dimensions(toy, steps, batch):
    inputs = {"noise": torch.randn(batch, 3, 4, 4), "renoise": torch.randn(steps, batch, 3, 4, 4)}
    before = toy(Steps(), **inputs)
    after = apply_rewrites(before, [flat_renoise.REWRITE])
    assert difference(before, after, inputs) == 0.0
    ranks = [n.meta["val"].dim() for n in after.program.graph.nodes if n.op == "call_function"]
    assert max(ranks) == 4


class Bytes(nn.Module):
    def forward(self, noise):
        return noise.clamp(0, 255).round().permute(0, 2, 3, 1).to(torch.uint8)


def test_bytes_become_channels_first_levels(toy):
    noise = 300.0 * torch.rand(1, 3, 4, 4)
    before = toy(Bytes(), noise=noise)
    after = apply_rewrites(before, [image_layout.REWRITE])
    first, second = (exact_picture(to_module(c.program), {"noise": noise}) for c in (before, after))
    assert second.shape == (1, 3, 4, 4)
    assert torch.equal(first.double(), second.permute(0, 2, 3, 1).double())


def test_one_form_of_attention_for_each_release():
    assert [f.name for f in chosen_rewrites(18)] == ["native_norm", "fused_attention", "label_columns", "flat_renoise"]
    assert [f.name for f in chosen_rewrites(17)] == ["native_norm", "matmul_attention", "label_columns", "flat_renoise"]
    assert [f.name for f in chosen_rewrites(18, "native_norm,fold_scales")] == ["native_norm"]
    assert chosen_rewrites(16, "none") == ()
    with pytest.raises(UsageError, match="unknown rewrite 'magic'"):
        chosen_rewrites(18, "magic")
