"""image_layout: bytes (N, H, W, C) become what a Core ML image output is made from, (N, C, H, W) from 0 to 255.

Not for `--rewrites` to choose: Core ML has no tensors of bytes, it makes the picture itself.
"""

from __future__ import annotations

from torch import fx

from cmexport.graph.fxtools import Editor, aten, is_op
from cmexport.graph.rewriting import Changes, Rewrite

CASTS = (aten.to.dtype, aten._to_copy.default)


def _apply(editor: Editor) -> Changes:
    output = next(n for n in editor.graph.nodes if n.op == "output")
    (cast,) = output.all_input_nodes
    permute = cast.args[0]
    if not is_op(cast, *CASTS) or not is_op(permute, aten.permute.default):
        return Changes(0)
    assert isinstance(permute, fx.Node)
    levels = permute.args[0]
    assert isinstance(levels, fx.Node)
    cast.replace_all_uses_with(levels)
    return Changes(1)


REWRITE = Rewrite("image_layout", "bytes as a Core ML image output", _apply)
