"""native_norm: GroupNorm becomes Core ML's own instance_norm, and one multiply-add for gamma and beta.

coremltools writes GroupNorm as ten operations over five dimensions, among them a plain square: in half precision it
overflows as soon as a value is more than 256 away from its mean. With a group's channels and rows in one dimension,
(N, G, C/G H, W), GroupNorm is instance_norm to the letter: one operation whose statistics are the runtime's own affair,
of four dimensions. layer_norm over (N, G, C/G H W) would be another, but with a last dimension of 32,768 at 64 x 64
pixels, longer than anything accelerators are laid out for.
"""

from __future__ import annotations

from torch import fx

from cmexport.graph.fxtools import Editor, argument, aten, is_op, shape_of
from cmexport.graph.rewriting import Changes, Rewrite

GROUP_NORM = aten.group_norm.default


def _apply(editor: Editor) -> Changes:
    return Changes(sum(_replace(editor, n) for n in list(editor.graph.nodes) if is_op(n, GROUP_NORM)))


def _replace(editor: Editor, norm: fx.Node) -> bool:
    shape = shape_of(norm)
    if len(shape) not in (3, 4):
        return False
    batch, channels, *rest = shape
    groups, eps = argument(norm, 1, "num_groups"), argument(norm, 4, "eps", 1e-5)
    assert isinstance(groups, int)
    height = channels // groups * (rest[0] if len(rest) == 2 else 1)
    x = editor.call(norm, aten.reshape.default, norm.args[0], [batch, groups, height, rest[-1]])
    x = editor.call(norm, aten.instance_norm.default, x, None, None, None, None, True, 0.0, eps, False)
    x = editor.call(norm, aten.reshape.default, x, list(shape))
    column = [1, channels, *([1] * len(rest))]
    for index, name, operation in ((2, "weight", aten.mul.Tensor), (3, "bias", aten.add.Tensor)):
        affine = argument(norm, index, name)
        if affine is not None:
            x = editor.call(norm, operation, x, editor.call(norm, aten.reshape.default, affine, column))
    norm.replace_all_uses_with(x)
    return True


REWRITE = Rewrite("native_norm", "GroupNorm as Core ML's instance_norm, which can't overflow half precision", _apply)
