"""Convolutions between pairs in place of nodes of a captured graph."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from cmexport.graph.fxtools import Editor, argument
from cmexport.quantize.codes import MIDDLE, LayerCodes
from cmexport.quantize.insertion import corrected_bias
from cmexport.targets.onnx.pairs import operators as operators  # registers the operator
from cmexport.targets.onnx.pairs.handing_on import handed_codes


def insert_paired_convolution(editor: Editor, node: fx.Node, codes: LayerCodes, *, signed: bool) -> fx.Node:
    """The node that computes what `node` does with `codes`, inserted before it; what it reads has been replaced.

    Args:
        editor: of the module.
        node: a convolution of `codes`' layer.
        codes: with output codes and a common zero point.
        signed: int8 codes for activations, else uint8.
    """
    assert codes.output is not None
    shift, kind = (MIDDLE, torch.int8) if signed else (0, torch.uint8)
    key = codes.layer.key
    output_zero = codes.output.zero_point - shift
    bias = corrected_bias(editor, node, codes).float()
    source = handed_codes(node.args[0])
    handing = codes.output.reader is not None
    result: fx.Node = editor.call(
        node,
        torch.ops.cmexport.paired_convolution.default,
        source or node.args[0],
        None if source else editor.constant(node, codes.step, key=("step", key)),
        editor.constant(node, _one(codes.zero_point - shift).to(kind), key=("zero point", key)),
        editor.constant(node, codes.codes, key=("codes", key)),
        editor.constant(node, codes.weight_step / codes.output.step, key=("weight step", key)),
        editor.constant(node, bias / codes.output.step + output_zero),
        None if handing else editor.constant(node, codes.output.step, key=("output step", key)),
        None if handing else editor.constant(node, output_zero.to(kind), key=("output zero point", key)),
        -shift,
        argument(node, 3, "stride", [1, 1]),
        argument(node, 4, "padding", [0, 0]),
    )
    return result


def _one(zero_point: Tensor) -> Tensor:
    """The zero point that all channels share."""
    assert bool((zero_point == zero_point[0]).all())
    return zero_point[0].clone()
