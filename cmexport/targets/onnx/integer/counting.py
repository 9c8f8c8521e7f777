"""Tokens in steps and counted from the lowest code, so that rounding them is all that is left to make codes of them.

One step per channel is what a kernel that rounds (N, T, C) does not want: with the channel on the last axis it is 50
times slower than with one step for all. Where a LayerNorm made the tokens its gamma and beta hold the steps and zero
points, and counting costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from cmexport.graph.fxtools import Editor, argument, aten, attribute, is_op, shape_of
from cmexport.quantize.codes import LayerCodes

NORM = aten.layer_norm.default


def counted(
    editor: Editor, node: fx.Node, source: fx.Node, codes: LayerCodes, by_node: Mapping[str, LayerCodes]
) -> fx.Node:
    """`source` / step + zero point, inserted before `node`, which reads it as the input of `codes`' layer."""
    step, zero = codes.step, codes.zero_point
    if _is_norm(editor, source) and (readers := _alike(source, codes, by_node)):
        gamma, beta = (attribute(editor.module, argument(source, i, n)) for i, n in ((2, "weight"), (3, "bias")))
        assert gamma is not None
        offset = torch.zeros_like(gamma) if beta is None else beta
        # One key for all readers: equal norms are one node in ONNX Runtime.
        return editor.call(
            node,
            NORM,
            *source.args[:2],
            editor.constant(node, gamma.detach().double() / step, key=("counted gamma", readers[0])),
            editor.constant(node, offset.detach().double() / step + zero, key=("counted beta", readers[0])),
            argument(source, 4, "eps", 1e-5),
        )
    shape, key = [1] * (len(shape_of(source)) - 1) + [-1], codes.layer.key
    inverse = editor.constant(node, (1 / step).reshape(shape), key=("inverse step", key))
    scaled = editor.call(node, aten.mul.Tensor, source, inverse)
    return editor.call(node, aten.add.Tensor, scaled, editor.constant(node, zero.reshape(shape), key=("zero", key)))


def _is_norm(editor: Editor, source: fx.Node) -> bool:
    """Whether `source` is a LayerNorm over channels with a gamma of its own."""
    if not is_op(source, NORM) or list(source.args[1]) != [shape_of(source)[-1]]:  # type: ignore[arg-type]
        return False
    beta = argument(source, 3, "bias")
    stored = beta is None or attribute(editor.module, beta) is not None
    return stored and attribute(editor.module, argument(source, 2, "weight")) is not None


def _alike(source: fx.Node, codes: LayerCodes, by_node: Mapping[str, LayerCodes]) -> list[str]:
    """Keys of the layers that read `source`, if all of them take the same codes of it; else none."""
    found = [by_node.get(user.name) for user in source.users]
    readers = [c for c in found if c is not None and c.output is None]
    same = all(torch.equal(c.step, codes.step) and torch.equal(c.zero_point, codes.zero_point) for c in readers)
    return [c.layer.key for c in readers] if same and len(readers) == len(found) else []
