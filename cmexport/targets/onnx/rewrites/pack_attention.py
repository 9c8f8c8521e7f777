"""pack_attention: projection, split, attention and merge become ONNX Runtime's packed Attention operator.

One operator in place of eight, and no copies between channel-major convolutions and token-major attention beyond one
transpose in and one out. Which rows of the projection are q, k and v of which head is found by pushing channel indices
through the views, so thirds, head-major and separate projections all end in the same packed weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from cmexport.graph.fxtools import Editor, argument, aten, attribute, is_op, is_view, shape_of, uses_through_views
from cmexport.graph.rewrites.fold_scales import name_of
from cmexport.graph.rewriting import Changes, Rewrite
from cmexport.targets.onnx import contrib as contrib  # registers cmexport::packed_attention

SDPA = aten.scaled_dot_product_attention.default
LINEAR, CONV = aten.linear.default, aten.conv2d.default


@dataclass(frozen=True)
class _Projection:
    """Rows (heads, width) of a projection layer that make one of q, k, v, and the layer's data input."""

    weight: Tensor
    bias: Tensor
    source: fx.Node
    channel_major: bool


def _apply(editor: Editor) -> Changes:
    return Changes(sum(_pack(editor, n) for n in list(editor.graph.nodes) if is_op(n, SDPA)))


def _pack(editor: Editor, attention: fx.Node) -> bool:
    if argument(attention, 6, "scale") != 1.0 or len(attention.args) > 3:
        return False
    if contrib.has_large_logits(*(shape_of(n) for n in attention.args[:2])):  # type: ignore[arg-type]
        return False  # the packed operator keeps all logits; as it is it is translated to one that doesn't
    parts = [_projection(editor, attention, n) for n in attention.args[:3]]
    if any(p is None for p in parts):
        return False
    q, k, v = (p for p in parts if p is not None)
    merged = _merged_tokens(attention)
    if merged is None or not q.source is k.source is v.source or q.weight.shape[-1] != q.weight[..., 0].numel():
        return False
    batch, heads, tokens, width = shape_of(attention.args[0])  # type: ignore[arg-type]
    channels = heads * width
    weight = torch.cat([p.weight.reshape(channels, -1) for p in (q, k, v)]).t()
    bias = torch.cat([p.bias.reshape(-1) for p in (q, k, v)])
    before = merged.node
    names = tuple(name_of(_layer(a).args[1]) for a in attention.args[:3])  # type: ignore[arg-type]
    x = q.source
    if q.channel_major:
        x = editor.call(before, aten.reshape.default, x, [batch, channels, tokens])
        x = editor.call(before, aten.transpose.int, x, 1, 2)
    packed = editor.call(
        before,
        torch.ops.cmexport.packed_attention.default,
        x,
        editor.constant(before, weight, key=("packed weight", names)),
        editor.constant(before, bias, key=("packed bias", names)),
        heads,
    )
    if merged.channel_major:
        packed = _project_channel_major(editor, merged.node, packed)
    merged.node.replace_all_uses_with(packed)
    return True


def _layer(node: fx.Node) -> fx.Node:
    while is_view(node):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return node


def _projection(editor: Editor, attention: fx.Node, operand: object) -> _Projection | None:
    assert isinstance(operand, fx.Node)
    layer = _layer(operand)
    if not is_op(layer, LINEAR, CONV):
        return None
    source = layer.args[0]
    weight = attribute(editor.module, layer.args[1])
    given = argument(layer, 2, "bias")
    bias = attribute(editor.module, given)
    if given is None and weight is not None:
        bias = torch.zeros(weight.shape[0])
    channel_major = is_op(layer, CONV)
    if weight is None or bias is None or not isinstance(source, fx.Node) or weight[0].numel() != weight.shape[1]:
        return None
    channel_dim = 1 if channel_major else len(shape_of(layer)) - 1
    for use in uses_through_views(layer, channel_dim):
        if use.user is attention and use.value is operand:
            rows = use.indices[0, :, 0, :]
            if bool((use.indices == rows[None, :, None, :]).all()):
                return _Projection(weight.flatten(1)[rows], bias[rows], source, channel_major)
    return None


@dataclass(frozen=True)
class _Merged:
    """The node whose value is the merged heads: token-major (N, T, C), or a channel-major 1x1 convolution's output."""

    node: fx.Node
    channel_major: bool


def _merged_tokens(attention: fx.Node) -> _Merged | None:
    batch, heads, tokens, width = shape_of(attention)
    channels = heads * width
    index = torch.arange(batch * heads * tokens * width).reshape(batch, heads, tokens, width)
    token_major = index.transpose(1, 2).reshape(batch, tokens, channels)
    node: fx.Node = attention
    value: Tensor = index
    while len(node.users) == 1:
        user = next(iter(node.users))
        if is_view(user) and user.args[0] is node:
            assert callable(user.target)
            value = user.target(value, *user.args[1:], **user.kwargs)
            node = user
            if value.shape == token_major.shape and bool((value == token_major).all()):
                return _Merged(node, channel_major=False)
            continue
        if is_op(user, CONV) and user.args[0] is node and shape_of(user.args[1])[2:] == (1, 1):  # type: ignore[arg-type]
            flat = value.flatten(2)
            if flat.shape == (batch, channels, tokens) and bool((flat == token_major.transpose(1, 2)).all()):
                return _Merged(user, channel_major=True)
        return None
    return None


def _project_channel_major(editor: Editor, conv: fx.Node, tokens: fx.Node) -> fx.Node:
    """The 1x1 output convolution as a linear layer on tokens, then back to (N, C, H, W)."""
    weight, bias = attribute(editor.module, conv.args[1]), argument(conv, 2, "bias")
    assert weight is not None
    matrix = editor.constant(conv, weight.flatten(1), key=("matrix", name_of(conv.args[1])))
    projected = editor.call(conv, LINEAR, tokens, matrix, bias)
    columns = editor.call(conv, aten.transpose.int, projected, 1, 2)
    return editor.call(conv, aten.reshape.default, columns, list(shape_of(conv)))


REWRITE = Rewrite("pack_attention", "ONNX Runtime's packed Attention operator", _apply)
