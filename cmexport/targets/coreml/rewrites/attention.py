"""fused_attention, matmul_attention: attention as iOS 18's one operation, or as two products and a softmax before.

The fused operation has no scale of its own: it always divides by sqrt(d). `fold_attention` has moved 1/sqrt(d) into the
projection of q, so the fused form moves sqrt(d) back. Below iOS 18 the scale stays in q, and products are taken of
channel-major operands as the convolutions leave them: transposes become flags of the products.
"""

from __future__ import annotations

import math
import operator

from torch import fx

from cmexport.graph.fxtools import Editor, argument, aten, is_op, shape_of
from cmexport.graph.rewrites.fold_attention import SDPA, fold_query_scale
from cmexport.graph.rewriting import Changes, Rewrite

TRANSPOSE, CHUNK = aten.transpose.int, aten.chunk.default

# The GPU's kernel for the fused operation gives wrong numbers from this batch on (apple/coremltools#2650).
FUSED_BATCH_LIMIT = 10


def _fused(editor: Editor) -> Changes:
    found = [n for n in list(editor.graph.nodes) if is_op(n, SDPA) and _is_plain(n)]
    for node in found:
        if shape_of(node)[0] < FUSED_BATCH_LIMIT:
            _transpose_once(editor, node)
            _scale_query(editor, node, _scale(node) * math.sqrt(_width(node)))
        else:
            _as_products(editor, node)
    return Changes(len(found))


def _matmul(editor: Editor) -> Changes:
    found = [n for n in list(editor.graph.nodes) if is_op(n, SDPA) and _is_plain(n)]
    for node in found:
        _as_products(editor, node)
    return Changes(len(found))


def _is_plain(attention: fx.Node) -> bool:
    """Four dimensions, no mask, no dropout, not causal."""
    others = (argument(attention, 3, "attn_mask"), argument(attention, 5, "is_causal", False))
    return len(shape_of(attention)) == 4 and not any(others) and not argument(attention, 4, "dropout_p", 0.0)


def _width(attention: fx.Node) -> int:
    return shape_of(_operands(attention)[0])[-1]


def _operands(attention: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
    q, k, v = attention.args[:3]
    assert isinstance(q, fx.Node)
    assert isinstance(k, fx.Node)
    assert isinstance(v, fx.Node)
    return q, k, v


def _scale(attention: fx.Node) -> float:
    scale = argument(attention, 6, "scale")
    return 1.0 / math.sqrt(_width(attention)) if scale is None else float(scale)  # type: ignore[arg-type]


def _scale_query(editor: Editor, attention: fx.Node, factor: float) -> None:
    """Multiply q by `factor`, in its projection where that is possible, and leave no scale in `attention`."""
    attention.args = attention.args[:3]
    attention.kwargs = {"scale": factor}
    if not math.isclose(factor, 1.0, rel_tol=1e-12) and not fold_query_scale(editor, attention):
        q = _operands(attention)[0]
        attention.update_arg(0, editor.call(attention, aten.mul.Tensor, q, factor))
    attention.kwargs = {}


def _flipped(editor: Editor, before: fx.Node, node: fx.Node) -> fx.Node:
    """`node` with its last two dimensions exchanged; what it was made from, where that is just this."""
    source = _transposed(node)
    return editor.call(before, TRANSPOSE, node, 2, 3) if source is None else source


def _transposed(node: fx.Node) -> fx.Node | None:
    """What `node` exchanges the last two of four dimensions of, if that is what it does."""
    if not is_op(node, TRANSPOSE) or {int(d) % 4 for d in node.args[1:3]} != {2, 3}:  # type: ignore[arg-type]
        return None
    source = node.args[0]
    return source if isinstance(source, fx.Node) else None


def _as_products(editor: Editor, attention: fx.Node) -> None:
    _scale_query(editor, attention, _scale(attention))
    q, k, v = _operands(attention)
    scores = editor.call(attention, aten.matmul.default, q, _flipped(editor, attention, k))
    weights = editor.call(attention, aten.softmax.int, scores, -1)
    users = list(attention.users)
    if users and all(_transposed(user) is attention for user in users):
        across = editor.call(attention, TRANSPOSE, weights, 2, 3)
        result = editor.call(attention, aten.matmul.default, _flipped(editor, attention, v), across)
        for user in users:
            user.replace_all_uses_with(result)
    else:
        attention.replace_all_uses_with(editor.call(attention, aten.matmul.default, weights, v))


def _transpose_once(editor: Editor, attention: fx.Node) -> None:
    """q, k and v that are parts of one tensor, each transposed: transpose it before it is split."""
    parts = [_transposed(node) for node in _operands(attention)]
    picked = [p for p in parts if p is not None and getattr(p.target, "__name__", "") == "getitem"]
    if len(picked) != 3 or len({p.args[0] for p in picked}) != 1:
        return
    split = picked[0].args[0]
    if not is_op(split, CHUNK):
        return
    assert isinstance(split, fx.Node)
    source, dim = split.args[0], int(argument(split, 2, "dim", 0)) % 4  # type: ignore[call-overload]
    across = editor.call(attention, TRANSPOSE, source, 2, 3)
    chunks = editor.call(attention, CHUNK, across, split.args[1], {2: 3, 3: 2}.get(dim, dim))
    for position, part in enumerate(picked):
        attention.update_arg(position, editor.call(attention, operator.getitem, chunks, part.args[1]))


FUSED = Rewrite("fused_attention", "attention as iOS 18's scaled_dot_product_attention", _fused)
MATMUL = Rewrite("matmul_attention", "attention as products and softmax of four dimensions, scale in q", _matmul)
