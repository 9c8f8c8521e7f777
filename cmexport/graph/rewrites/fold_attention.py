"""fold_attention: constants around an attention block move into its projections.

* GroupNorm's gamma and beta into the 1x1 convolution or linear layers that read it:
  W (gamma x + beta) + b = (W gamma) x + (b + W beta).
* 1/sqrt(d) of the scaled dot product into the rows of the projection that make q.

Which channel meets which weight is found by pushing channel indices through the views in between, so thirds and
head-major layouts, fused and separate projections are all understood.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from cmexport.graph.fxtools import (
    Editor,
    Use,
    argument,
    aten,
    attribute,
    channels_in,
    is_op,
    is_view,
    shape_of,
    uses_through_views,
)
from cmexport.graph.rewrites.fold_scales import add_to_bias, name_of, set_argument
from cmexport.graph.rewriting import Changes, Rewrite

SDPA = aten.scaled_dot_product_attention.default


def _apply(editor: Editor) -> Changes:
    norms = sum(_fold_norm(editor, n) for n in list(editor.graph.nodes) if is_op(n, aten.group_norm.default))
    scales = sum(fold_query_scale(editor, n) for n in list(editor.graph.nodes) if is_op(n, SDPA))
    return Changes(norms + scales, f"{norms} norm affines and {scales} query scales folded into projections")


def _fold_norm(editor: Editor, norm: fx.Node) -> bool:
    module = editor.module
    gamma_node, beta_node = argument(norm, 2, "weight"), argument(norm, 3, "bias")
    gamma, beta = attribute(module, gamma_node), attribute(module, beta_node)
    constants = [n is None or attribute(module, n) is not None for n in (gamma_node, beta_node)]
    if (gamma is None and beta is None) or not all(constants):
        return False  # nothing to fold, or scales computed from the label
    uses = list(uses_through_views(norm, channel_dim=1))
    orders = [_input_channels(module, use) for use in uses]
    if not uses or any(order is None for order in orders):
        return False
    for use, order in zip(uses, orders, strict=True):
        assert order is not None
        _fold_into(editor, use.user, norm, gamma, beta, order)
    eps = argument(norm, 4, "eps", 1e-5)
    assert isinstance(eps, float)
    norm.args = (norm.args[0], norm.args[1], None, None, eps, False)
    norm.kwargs = {}
    return True


def _input_channels(module: fx.GraphModule, use: Use) -> Tensor | None:
    """Find which norm channel each input feature of a 1x1 convolution or linear user is; None if unclear."""
    user = use.user
    if not is_op(user, aten.linear.default, aten.conv2d.default) or user.args[0] is not use.value:
        return None
    weight, bias = attribute(module, user.args[1]), argument(user, 2, "bias")
    if weight is None or (bias is not None and attribute(module, bias) is None):
        return None
    if is_op(user, aten.conv2d.default):
        padding, groups = argument(user, 4, "padding", 0), argument(user, 6, "groups", 1)
        if tuple(weight.shape[2:]) != (1, 1) or groups != 1 or padding not in (0, [0, 0], (0, 0)):
            return None  # zero padding would have to become -beta/gamma padding
        features = use.indices.movedim(1, -1)
    else:
        features = use.indices
    rows = features.reshape(-1, features.shape[-1])
    return rows[0] if bool((rows == rows[0]).all()) else None


def _fold_into(
    editor: Editor, layer: fx.Node, norm: fx.Node, gamma: Tensor | None, beta: Tensor | None, order: Tensor
) -> None:
    weight_node = layer.args[1]
    weight = attribute(editor.module, weight_node)
    assert weight is not None
    matrix = weight.double().reshape(weight.shape[0], -1)
    key = (name_of(weight_node), name_of(argument(norm, 2, "weight")), name_of(argument(norm, 3, "bias")))
    if beta is not None:
        add_to_bias(editor, layer, matrix @ beta.double()[order], ("beta", *key))
    if gamma is not None:
        value = (matrix * gamma.double()[order]).reshape(weight.shape)
        set_argument(layer, 1, "weight", editor.constant(layer, value, key=("gamma", *key)))


def fold_query_scale(editor: Editor, attention: fx.Node) -> bool:
    """Move an attention's scale into the projection that makes q; False, and nothing changed, where there is none."""
    query = attention.args[0]
    assert isinstance(query, fx.Node)
    scale = argument(attention, 6, "scale")
    factor = 1.0 / math.sqrt(shape_of(query)[-1]) if scale is None else float(scale)  # type: ignore[arg-type]
    if factor == 1.0:
        return False
    producer = query
    while is_view(producer):
        source = producer.args[0]
        assert isinstance(source, fx.Node)
        producer = source
    if not is_op(producer, aten.conv2d.default, aten.linear.default):
        return False
    module = editor.module
    weight, bias = attribute(module, producer.args[1]), argument(producer, 2, "bias")
    bias_value = attribute(module, bias)
    if weight is None or (bias is not None and bias_value is None):
        return False
    channel_dim = 1 if is_op(producer, aten.conv2d.default) else len(shape_of(producer)) - 1
    mine = torch.zeros(weight.shape[0], dtype=torch.bool)
    others = torch.zeros_like(mine)
    for use in uses_through_views(producer, channel_dim):
        is_query = use.user is attention and use.value is query and attention.args[1] is not query
        (mine if is_query else others).logical_or_(channels_in(use.indices, len(mine)))
    if not bool(mine.any()) or bool((mine & others).any()):
        return False
    factors = torch.where(mine, torch.tensor(factor, dtype=torch.float64), 1.0)
    column = factors.reshape(-1, *([1] * (weight.dim() - 1)))
    rows = (tuple(mine.tolist()), factor)
    set_argument(
        producer,
        1,
        "weight",
        editor.constant(producer, lambda: weight.double() * column, key=("query", name_of(producer.args[1]), rows)),
    )
    if bias_value is not None:
        set_argument(
            producer,
            2,
            "bias",
            editor.constant(producer, lambda: bias_value.double() * factors, key=("query", name_of(bias), rows)),
        )
    attention.kwargs = {**attention.kwargs, "scale": 1.0}
    if len(attention.args) > 6:
        attention.args = attention.args[:6]
    return True


REWRITE = Rewrite("fold_attention", "norm affine and query scale into the attention projections", _apply)
