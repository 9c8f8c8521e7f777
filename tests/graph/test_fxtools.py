"""The questions and edits that rewrites are made of, on graphs small enough to see through."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cmexport.graph.fxtools import (
    Editor,
    argument,
    aten,
    attribute,
    dependence,
    is_op,
    operation_count,
    shape_of,
    uses_through_views,
    weight_elements,
)
from cmexport.graph.tracing import to_module, trace


def graph_of(module, **inputs):
    return to_module(trace(module.eval().requires_grad_(False), inputs))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0))
        self.table = nn.Parameter(torch.randn(3, 4))

    def forward(self, noise, label):
        fixed = torch.cos(self.weight)
        row = F.embedding(label, self.table)
        return noise * fixed + (row + fixed)


@pytest.fixture
def mixed():
    return graph_of(Mixed(), noise=torch.zeros(1, 4), label=torch.tensor([0]))


def node(graph, target):
    return next(n for n in graph.nodes if n.target is target)


def test_dependence_is_the_names_of_the_inputs(mixed):
    depends = dependence(mixed.graph)
    assert not depends[node(mixed.graph, aten.cos.default)]
    assert depends[node(mixed.graph, aten.embedding.default)] == {"label"}
    assert depends[node(mixed.graph, aten.mul.Tensor)] == {"noise"}
    additions = [n for n in mixed.graph.nodes if is_op(n, aten.add.Tensor)]
    assert sorted(map(sorted, (depends[n] for n in additions))) == [["label"], ["label", "noise"]]


def test_counts_and_lookups(mixed):
    assert weight_elements(mixed) == 4 + 12
    assert operation_count(mixed) == 5
    embedding = node(mixed.graph, aten.embedding.default)
    assert attribute(mixed, embedding.args[0]).shape == (3, 4)
    assert attribute(mixed, embedding) is None
    assert attribute(mixed, 1.0) is None
    assert shape_of(embedding) == (1, 4)
    assert argument(embedding, 5, "missing", "default") == "default"


def test_equal_keys_share_one_constant(mixed):
    editor = Editor(mixed)
    output = node(mixed.graph, "output")
    calls = []

    def compute():
        calls.append(1)
        return torch.full((2,), 1.0 / 3.0, dtype=torch.float64)

    first, second = (editor.constant(output, compute, key="third") for _ in range(2))
    assert first.target == second.target
    assert len(calls) == 1
    stored = attribute(mixed, first)
    assert stored.dtype is torch.float32
    assert editor.constant(output, torch.zeros(2)).target != first.target


def test_a_dropped_constant_is_not_confused_with_a_later_one(mixed):
    """Names of dropped constants must not come back with other content under an old key."""
    editor = Editor(mixed)
    output = node(mixed.graph, "output")
    editor.constant(output, torch.tensor([1.0]), key="one")
    editor.clean()  # nothing uses it
    other = editor.constant(output, torch.tensor([2.0]), key="two")
    again = editor.constant(output, torch.tensor([1.0]), key="one")
    assert attribute(mixed, other).item() == 2.0
    assert attribute(mixed, again).item() == 1.0


def test_clean_drops_dead_calls_and_their_weights(mixed):
    editor = Editor(mixed)
    row = node(mixed.graph, aten.embedding.default)
    row.replace_all_uses_with(editor.constant(row, torch.ones(1, 4)))
    editor.clean()
    assert not [n for n in mixed.graph.nodes if is_op(n, aten.embedding.default)]
    assert "table" not in dict(mixed.named_parameters())
    assert torch.equal(mixed(noise=torch.zeros(1, 4), label=torch.tensor([0])), 1.0 + torch.arange(4.0).cos()[None])


def test_clean_drops_attention_although_it_counts_as_random():
    class Attention(nn.Module):
        def forward(self, noise):
            F.scaled_dot_product_attention(noise, noise, noise)
            return noise + 1.0

    module = graph_of(Attention(), noise=torch.zeros(1, 1, 2, 2))
    Editor(module).clean()
    assert operation_count(module) == 1


def test_calls_know_their_shape(mixed):
    editor = Editor(mixed)
    output = node(mixed.graph, "output")
    made = editor.call(output, aten.reshape.default, node(mixed.graph, aten.cos.default), [2, 2])
    assert shape_of(made) == (2, 2)


class Split(nn.Module):
    """Channels 0..5 of a convolution: the first three, reversed in layout, meet sigmoid; the others meet tanh."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 1)

    def forward(self, noise):
        left, right = self.conv(noise).chunk(2, dim=1)
        tokens = left.reshape(1, 3, 4).transpose(1, 2)
        return torch.sigmoid(tokens).sum() + torch.tanh(right).sum()


def test_channels_are_followed_through_views():
    module = graph_of(Split(), noise=torch.zeros(1, 2, 2, 2))
    conv = node(module.graph, aten.conv2d.default)
    uses = {use.user.target: use for use in uses_through_views(conv, channel_dim=1)}
    tokens, right = uses[aten.sigmoid.default], uses[aten.tanh.default]
    assert tokens.indices.tolist() == [[[0, 1, 2]] * 4]
    assert right.indices[0, :, 0, 0].tolist() == [3, 4, 5]
    assert right.value is node(module.graph, aten.tanh.default).args[0]
