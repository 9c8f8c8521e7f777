"""subpixel: nearest enlargement and a 3x3 convolution become four 2x2 convolutions of the small picture.

Each row of the picture twice, three taps meet two rows: an even row y = 2 i reads rows i - 1, i, i with w0, w1, w2, so
w0 and w1 + w2; an odd one i, i, i + 1, so w0 + w1 and w2. The same for columns: four convolutions (even and odd rows,
even and odd columns) with 4 taps each on a quarter of the pixels do 16/36 of the work. Zeros beyond the large picture's
border are zeros beyond the small one's, on the side that each of the four reads, so that borders are exact, too.
W. Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016, section 3, has the idea.

Measured in ONNX Runtime's CPU kernels on one and two threads, of the two operations' time: 512 channels 0.49 and 0.64
(64 x 64 pixels), 256 channels 0.57 and 0.76, but 128 channels 0.64 and 1.03, 64 channels 1.48, where writing the
picture together costs more than the work saved. And the layer has 16/9 of its weights; what is saved for each of them
grows with the picture. So only wide layers on pictures that are large: Stable Diffusion's decoder (256 x 256 pixels)
takes 0.75 and 0.83 of its time.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from cmexport.graph.fxtools import Editor, argument, aten, attribute, is_op, shape_of
from cmexport.graph.rewrites.fold_scales import name_of
from cmexport.graph.rewriting import Changes, Rewrite
from cmexport.targets.onnx import contrib as contrib  # registers cmexport::interleave

_CHANNELS = 256
"""Fewer on either side gain nothing."""
_PIXELS = 32 * 32
"""Of the small picture; on fewer the layer is bound by reading its weights, which become more."""
_CONV, _LARGER = aten.conv2d.default, aten.upsample_nearest2d.vec
_TAPS = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float64)
"""Even and odd rows, the two taps of each, the three they are sums of."""


def _apply(editor: Editor) -> Changes:
    return Changes(sum(_replace(editor, n) for n in list(editor.graph.nodes) if is_op(n, _CONV)))


def _replace(editor: Editor, conv: fx.Node) -> bool:
    enlarged, weight_node, bias = conv.args[0], conv.args[1], argument(conv, 2, "bias")
    weight = attribute(editor.module, weight_node)
    if weight is None or not isinstance(enlarged, fx.Node) or not _pays(conv, enlarged, weight):
        return False
    source = enlarged.args[0]
    assert isinstance(source, fx.Node)
    phases = []
    for row in range(2):
        for column in range(2):
            taps = editor.constant(
                conv,
                lambda r=row, c=column: torch.einsum("th,uw,oihw->oitu", _TAPS[r], _TAPS[c], weight.double()),  # type: ignore[misc]
                key=("subpixel", name_of(weight_node), row, column),
            )
            border = [1 - column, column, 1 - row, row]
            around = editor.call(conv, aten.constant_pad_nd.default, source, border, 0.0)
            phases.append(editor.call(conv, _CONV, around, taps, bias))
    conv.replace_all_uses_with(editor.call(conv, torch.ops.cmexport.interleave.default, phases))
    return True


def _pays(conv: fx.Node, enlarged: fx.Node, weight: Tensor) -> bool:
    if not is_op(enlarged, _LARGER) or len(enlarged.users) != 1 or tuple(weight.shape[2:]) != (3, 3):
        return False
    ones, source = (1, [1, 1], (1, 1)), enlarged.args[0]
    assert isinstance(source, fx.Node)
    *_, height, width = shape_of(source)
    plain = all(argument(conv, i, n, 1) in ones for i, n in ((3, "stride"), (5, "dilation"), (6, "groups")))
    return (
        plain
        and argument(conv, 4, "padding", 0) in ones
        and shape_of(enlarged)[2:] == (2 * height, 2 * width)
        and min(weight.shape[:2]) >= _CHANNELS
        and height * width >= _PIXELS
    )


REWRITE = Rewrite("subpixel", "enlargement and convolution as four convolutions of the small picture", _apply)
