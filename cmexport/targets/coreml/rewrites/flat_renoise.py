"""flat_renoise: later steps' noise leaves the five dimensions of its input at once.

`renoise` is (K-1, N, C, H, W). Seen as ((K-1) N, C, H, W), the noise of one step is a slice of it, and nothing but the
input itself has more than four dimensions.
"""

from __future__ import annotations

from cmexport.graph.fxtools import Editor, aten, is_op, shape_of
from cmexport.graph.rewriting import Changes, Rewrite


def _apply(editor: Editor) -> Changes:
    later = editor.signature.later_noise
    noise = next((n for n in editor.graph.nodes if later is not None and n.name == later.name), None)
    picks = [] if noise is None else [n for n in noise.users if is_op(n, aten.select.int) and n.args[1] == 0]
    if noise is None or not picks or len(shape_of(noise)) != 5:
        return Changes(0)
    steps, batch, *picture = shape_of(noise)
    order = {n: i for i, n in enumerate(editor.graph.nodes)}
    first = min(picks, key=order.__getitem__)
    flat = editor.call(first, aten.reshape.default, noise, [steps * batch, *picture])
    for pick in picks:
        index = pick.args[2]
        assert isinstance(index, int)
        start = index % steps * batch
        part = flat if steps == 1 else editor.call(pick, aten.slice.Tensor, flat, 0, start, start + batch)
        pick.replace_all_uses_with(part)
    return Changes(len(picks))


REWRITE = Rewrite("flat_renoise", "later steps' noise with four dimensions", _apply)
