"""8-bit layers between pairs in place of nodes of a captured graph, in numbers that half precision holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import Editor, argument
from cmexport.quantize.centred import operators as operators  # registers the operators
from cmexport.quantize.codes import INTEGER_PRODUCTS, MIDDLE, TOP, LayerCodes
from cmexport.quantize.insertion import corrected_bias, insert_layers
from cmexport.quantize.int8 import encode_layers, finish, prepare
from cmexport.quantize.precision_plan import PrecisionPlan

_HALF = torch.finfo(torch.half)
_LEAST_SCALE = 2.0**-10
"""Codes themselves, at this scale, are normal half numbers: those flush to zero that are below 1/16."""

INTEGER = torch.ops.cmexport


@dataclass(frozen=True, eq=False)
class HalfSteps:
    """The numbers of one layer, such that half precision holds them exactly.

    The layer computes half_step[o] * sum codes[o, c, ...] * read[c] + bias[o], `read` being
    scale * round((x * factor[c] + shift[c]) / scale).

    Attributes:
        scale: of the pair, a power of two from 2^-10 to 1.
        factor: (C,).
        shift: (C,), whole numbers times `scale`.
        codes: as `LayerCodes.codes`.
        weight_step: (O,), no smaller than the smallest normal half number.
        offset: (O,) float64: what zero points bring in, to subtract from the bias.
    """

    scale: float
    factor: Tensor
    shift: Tensor
    codes: Tensor
    weight_step: Tensor
    offset: Tensor


def half_steps(codes: LayerCodes) -> HalfSteps:
    """Choose the pair's scale so that weight steps are near 1, and round everything to half precision.

    A step of 0.02 and weights of 0.05 give a weight step of 8e-6, below the smallest normal half number; divided by the
    pair's scale it is 0.008.
    """
    largest = float(codes.weight_step.max())
    scale = max(min(2.0 ** ceil(log2(largest)), 1.0), _LEAST_SCALE)
    # Steps so fine that the factor overflows belong to channels that were never anything but zero.
    factor = (scale / codes.step).clamp(max=_HALF.max).half().float()
    exact = codes.weight_step / scale
    weight_step = exact.half().float().clamp_min(_HALF.tiny)
    # Rows whose steps were raised get smaller codes; the others keep theirs.
    shrink = torch.where(exact < _HALF.tiny, exact / weight_step, 1.0)
    rows = shrink.reshape(-1, *(1,) * (codes.codes.dim() - 1))
    whole = (codes.codes.float() * rows).round().clamp(-TOP, TOP).to(torch.int8)
    centred = codes.zero_point - MIDDLE
    sums = (whole.double() * codes.layer.spread(centred).double()).flatten(1).sum(dim=1)
    return HalfSteps(scale, factor, centred * scale, whole, weight_step, sums * weight_step.double() * scale)


def to_int8(
    captured: CapturedGraph, plan: PrecisionPlan, progress: Callable[[str], None]
) -> tuple[CapturedGraph, dict[str, Any]]:
    """Calibrate, round and insert; the graph, and the account for the manifest.

    Raises:
        CheckpointError: the plan names unknown layers, or a layer's input or output is not finite.
    """
    prepared = prepare(captured, plan, progress)
    codes = encode_layers(prepared, lambda _: INTEGER_PRODUCTS, progress)
    found = finish(prepared, codes, progress)
    facts = {"activations": "int8, centred per channel", "weights": "int8, a step per output channel"}
    return with_centred_layers(captured, found.codes), {**found.facts(), **facts}


def with_centred_layers(captured: CapturedGraph, codes: Iterable[LayerCodes]) -> CapturedGraph:
    """The graph computing `codes`' layers between pairs; the given graph keeps its own."""
    return insert_layers(captured, codes, _inserted)


def _inserted(editor: Editor, node: fx.Node, codes: LayerCodes, by_node: Mapping[str, LayerCodes]) -> fx.Node:
    del by_node
    numbers, key = half_steps(codes), codes.layer.key
    convolution = codes.layer.operator.kind == "conv"
    bias = corrected_bias(editor, node, codes) - numbers.offset

    def constant(name: str, value: Tensor) -> fx.Node:
        return editor.constant(node, value, key=(name, key))

    operands = (
        node.args[0],
        constant("factor", codes.layer.along(numbers.factor)),
        constant("shift", codes.layer.along(numbers.shift)),
        numbers.scale,
        constant("codes", numbers.codes if convolution else numbers.codes.t()),
        constant("weight step", numbers.weight_step),
        editor.constant(node, bias),
    )
    if not convolution:
        return editor.call(node, INTEGER.centred_linear.default, *operands)
    stride, padding = argument(node, 3, "stride", [1, 1]), argument(node, 4, "padding", [0, 0])
    return editor.call(node, INTEGER.centred_convolution.default, *operands, stride, padding)
