"""fold_scales: fixed factors and offsets around convolutions move into their weights.

* c_in sigma before the first convolution (zero padding stays zero, the bias is untouched),
* c_out after the last one (weights and bias),
* an offset per channel after a convolution (additive time embeddings at fixed sigmas) into its bias.

c_skip sigma stays what it is: one scaled add.
"""

from __future__ import annotations

from torch import Tensor, fx

from cmexport.graph.fxtools import Editor, argument, aten, attribute, is_op, shape_of
from cmexport.graph.rewriting import Changes, Rewrite

LINEAR_OPS = (aten.conv2d.default, aten.linear.default)


def _apply(editor: Editor) -> Changes:
    applied = 0
    # Until nothing changes: folding c_out uncovers nothing today, but an offset may follow a factor.
    while changed := sum(step(editor) for step in (_factors_before, _factors_after, _offsets_after)):
        applied += changed
        editor.clean()
    return Changes(applied)


def _factor(node: fx.Node) -> tuple[fx.Node, float] | None:
    """(input, factor) of `input * number`."""
    if not is_op(node, aten.mul.Tensor, aten.mul.Scalar):
        return None
    left, right = node.args[:2]
    if isinstance(left, fx.Node) and isinstance(right, int | float):
        return left, float(right)
    if isinstance(right, fx.Node) and isinstance(left, int | float):
        return right, float(left)
    return None


def _factors_before(editor: Editor) -> int:
    changed = 0
    for node in list(editor.graph.nodes):
        found = _factor(node)
        if found is None or not node.users:
            continue
        if not all(_reads(user, node) and _weights(editor, user) for user in node.users):
            continue
        source, factor = found
        for user in list(node.users):
            scale_weights(editor, user, factor, scale_bias=False)
            user.replace_input_with(node, source)
        changed += 1
    return changed


def _factors_after(editor: Editor) -> int:
    changed = 0
    for node in list(editor.graph.nodes):
        found = _factor(node)
        if found is None:
            continue
        producer, factor = found
        if is_op(producer, *LINEAR_OPS) and len(producer.users) == 1 and _weights(editor, producer):
            scale_weights(editor, producer, factor, scale_bias=True)
            node.replace_all_uses_with(producer)
            changed += 1
    return changed


def _offsets_after(editor: Editor) -> int:
    changed = 0
    for node in list(editor.graph.nodes):
        if not is_op(node, aten.add.Tensor) or node.kwargs.get("alpha", 1) != 1:
            continue
        for producer, offset in (node.args[:2], node.args[1::-1]):
            value = attribute(editor.module, offset)
            if value is None or not is_op(producer, aten.conv2d.default) or len(producer.users) != 1:
                continue
            if tuple(value.shape) != (1, shape_of(producer)[1], 1, 1) or not _weights(editor, producer):
                continue
            add_to_bias(editor, producer, value.double().reshape(-1), ("offset", offset.target))
            node.replace_all_uses_with(producer)
            changed += 1
            break
    return changed


def _reads(user: fx.Node, node: fx.Node) -> bool:
    """Whether `user` is a convolution or linear layer whose data input, and nothing else, is `node`."""
    return is_op(user, *LINEAR_OPS) and user.args[0] is node and node not in user.args[1:]


def _weights(editor: Editor, node: fx.Node) -> bool:
    """Whether both weight and bias (if any) are constants."""
    bias = argument(node, 2, "bias")
    stored = bias is None or attribute(editor.module, bias) is not None
    return stored and attribute(editor.module, node.args[1]) is not None


def name_of(node: object) -> str | None:
    """Return the attribute a get_attr node refers to."""
    return str(node.target) if isinstance(node, fx.Node) else None


def scale_weights(editor: Editor, node: fx.Node, factor: float, *, scale_bias: bool) -> None:
    """Multiply a layer's weight (and bias) by a number, in float64."""
    weight, bias = node.args[1], argument(node, 2, "bias")
    weight_value, bias_value = attribute(editor.module, weight), attribute(editor.module, bias)
    assert weight_value is not None
    scaled = editor.constant(node, lambda: weight_value.double() * factor, key=("scale", name_of(weight), factor))
    set_argument(node, 1, "weight", scaled)
    if scale_bias and bias_value is not None:
        value = editor.constant(node, lambda: bias_value.double() * factor, key=("scale", name_of(bias), factor))
        set_argument(node, 2, "bias", value)


def add_to_bias(editor: Editor, node: fx.Node, offset: Tensor, key: tuple[object, ...]) -> None:
    """Add an offset per output channel to a layer's bias, in float64."""
    bias = argument(node, 2, "bias")
    bias_value = attribute(editor.module, bias)

    def total() -> Tensor:
        return offset if bias_value is None else bias_value.double() + offset

    set_argument(node, 2, "bias", editor.constant(node, total, key=(*key, name_of(bias))))


def set_argument(node: fx.Node, index: int, name: str, value: fx.Node | float) -> None:
    """Replace an argument given by position or keyword."""
    if len(node.args) > index:
        node.update_arg(index, value)
    elif len(node.args) == index and name not in node.kwargs:
        node.args = (*node.args, value)
    else:
        node.update_kwarg(name, value)


REWRITE = Rewrite("fold_scales", "fixed factors and offsets into neighbouring weights", _apply)
