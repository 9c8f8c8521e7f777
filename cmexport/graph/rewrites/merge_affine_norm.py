"""merge_affine_norm: GroupNorm's gamma and beta, (1 + scale) and shift become one multiply-add.

    (norm(h) gamma + beta) (1 + scale) + shift = norm(h) a + b,  a = gamma (1 + scale),  b = beta (1 + scale) + shift

a and b depend on the label at most. With one row for all samples (batch 1, or no label at all) they become the norm's
own gamma and beta; otherwise they stay as one per-sample multiply-add. `fold_constants` or `tabulate_labels` then turn
the arithmetic on a and b into stored numbers.
"""

from __future__ import annotations

from torch import fx

from cmexport.graph.fxtools import Editor, argument, aten, dependence, is_op, shape_of
from cmexport.graph.rewrites.fold_constants import fold_fixed_values
from cmexport.graph.rewriting import Changes, Rewrite


def _apply(editor: Editor) -> Changes:
    depends, choices = dependence(editor.graph), {i.name for i in editor.signature.listed}
    merged = 0
    for norm in list(editor.graph.nodes):
        if not is_op(norm, aten.group_norm.default):
            continue
        product = _only_user(norm, aten.mul.Tensor)
        total = _only_user(product, aten.add.Tensor) if product is not None else None
        if product is None or total is None or total.kwargs.get("alpha", 1) != 1:
            continue
        scale, shift = _other(product, norm), _other(total, product)
        if not all(isinstance(n, fx.Node) and depends[n] <= choices for n in (scale, shift)):
            continue
        if not all(_per_channel(n, norm) for n in (scale, shift)):
            continue
        _merge(editor, norm, total, scale, shift)
        merged += 1
    fold_fixed_values(editor)
    return Changes(applied=merged)


def _only_user(node: fx.Node, target: object) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is target else None


def _other(node: fx.Node, known: fx.Node) -> fx.Node:
    left, right = node.args[:2]
    return right if left is known else left  # type: ignore[return-value]


def _per_channel(node: fx.Node, norm: fx.Node) -> bool:
    """(1 or N, C, 1, 1, ...): one value per sample and channel."""
    shape, target = shape_of(node), shape_of(norm)
    return (
        len(shape) == len(target)
        and shape[0] in (1, target[0])
        and shape[1] == target[1]
        and all(d == 1 for d in shape[2:])
    )


def _merge(editor: Editor, norm: fx.Node, total: fx.Node, scale: fx.Node, shift: fx.Node) -> None:
    x, groups, gamma, beta, eps = (argument(norm, i, name) for i, name in enumerate(ARGUMENTS))
    column = [1, -1, *([1] * (len(shape_of(norm)) - 2))]

    def as_column(weight: object) -> fx.Node:
        return editor.call(total, aten.reshape.default, weight, column)

    if beta is not None:
        shift = editor.call(total, aten.add.Tensor, shift, editor.call(total, aten.mul.Tensor, scale, as_column(beta)))
    if gamma is not None:
        scale = editor.call(total, aten.mul.Tensor, scale, as_column(gamma))
    if shape_of(scale)[0] == shape_of(shift)[0] == 1:
        # One row serves every sample: it becomes the norm's own gamma and beta, constant or computed.
        weight, bias = (editor.call(total, aten.reshape.default, n, [-1]) for n in (scale, shift))
        merged = editor.call(total, aten.group_norm.default, x, groups, weight, bias, eps or 1e-5, False)
    else:
        plain = editor.call(total, aten.group_norm.default, x, groups, None, None, eps or 1e-5, False)
        merged = editor.call(total, aten.add.Tensor, editor.call(total, aten.mul.Tensor, plain, scale), shift)
    total.replace_all_uses_with(merged)


ARGUMENTS = ("input", "num_groups", "weight", "bias", "eps")
REWRITE = Rewrite("merge_affine_norm", "one multiply-add for GroupNorm's affine and the scale-shift", _apply)
