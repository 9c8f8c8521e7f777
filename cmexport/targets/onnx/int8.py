"""int8 for ONNX Runtime: which layers, in which of the two spellings, put into the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from cmexport.graph.capture import AMPLIFYING, CapturedGraph
from cmexport.graph.fxtools import Editor, shape_of
from cmexport.onnxfile.translations import Translations
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS, LayerCodes, Scheme
from cmexport.quantize.insertion import insert_layers
from cmexport.quantize.int8 import Prepared, encode_layers, finish, prepare
from cmexport.quantize.layers import OPERATORS, Layer, WeightedOperator
from cmexport.quantize.output_rounding import most_harmful_outputs
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.targets.base import TellStep
from cmexport.targets.onnx import contrib as contrib  # registers cmexport::packed_attention
from cmexport.targets.onnx.integer.insertion import insert_integer_layer
from cmexport.targets.onnx.integer.translations import integer_translations
from cmexport.targets.onnx.pairs.handing_on import hand_on
from cmexport.targets.onnx.pairs.insertion import insert_paired_convolution
from cmexport.targets.onnx.pairs.translations import paired_translations
from cmexport.targets.onnx.providers import ProviderProfile

PACKED: Mapping[Callable[..., Any], WeightedOperator] = {
    **OPERATORS,
    torch.ops.cmexport.packed_attention.default: WeightedOperator("attention", transposed=True),
}
SMALL = 16 * 16
"""Positions of a result up to which an integer product takes no longer than a convolution between pairs: 55 against
104 us from 64 to 64 channels at 16x16, 65 against 77 for 128 at 8x8, 76 against 70 for 192 at 4x4; but 481 against 395
for 64 at 32x32, and 14 against 6 ms at 128x128 (one thread, a norm behind)."""
MANY_TOKENS = 8
"""For each channel, from which on attention is left in float32. Only its projections are ever in 8 bits, and beside
the products of all tokens with all they are little: 1,024 tokens of 64 channels take 1.21 of float32's time, of 256
channels 0.85, 256 of 96 0.94, 64 of 128 0.84 (one thread, codes of the input included)."""
CONVOLUTION_ROLES = frozenset({"spatial", "pointwise"})


@dataclass(frozen=True, eq=False)
class Int8Graph:
    """A graph with layers in 8 bits, how its operators are spelled, and the account for the manifest."""

    captured: CapturedGraph
    translations: Translations
    facts: Mapping[str, Any]
    simulated_db: tuple[float, float]


def prepare_int8(
    captured: CapturedGraph, plan: PrecisionPlan, profile: ProviderProfile, progress: TellStep
) -> Prepared:
    """Calibrate what the plan and the provider let compute in 8 bits; errors as `quantize.int8.prepare`."""
    if profile.contrib_ops:
        return prepare(captured, plan, progress, PACKED)
    return prepare(captured, plan, progress, roles=CONVOLUTION_ROLES)


def to_int8(
    prepared: Prepared,
    profile: ProviderProfile,
    progress: TellStep,
    in_float: Collection[str] = (),
    *,
    spare: bool = True,
) -> Int8Graph:
    """Round and insert, but for the layers `in_float`.

    ONNX Runtime's own CPU kernels get both spellings: pairs, which are fastest on most processors, and integer products
    where there is no convolution or where rounding the output as well would cost most.
    """
    codes = encode_layers(prepared, _paired, progress, {*in_float, *_with_many_tokens(prepared)})
    if profile.contrib_ops and spare:
        progress("outputs worth sparing")
        handed = hand_on(prepared.captured, codes)
        spared = most_harmful_outputs(prepared.captured, handed) | _small(prepared.captured, handed)
        codes = tuple(prepared.encoded(c.layer, INTEGER_PRODUCTS) if c.layer.key in spared else c for c in codes)
    found = finish(prepared, hand_on(prepared.captured, codes), progress)
    return Int8Graph(
        with_layers(prepared.captured, found.codes, signed=profile.signed),
        {**integer_translations(), **paired_translations(channels_first=profile.own_kernels)},
        {
            **found.facts(),
            "activations": "int8" if profile.signed else "uint8",
            "integer_products": [c.layer.key for c in found.codes if c.output is None],
        },
        found.simulated_db,
    )


def _small(captured: CapturedGraph, codes: Iterable[LayerCodes]) -> frozenset[str]:
    """Keys of convolutions whose outputs need no rounding where the sampler multiplies it: products are as fast."""
    if captured.amplification <= AMPLIFYING:
        return frozenset()
    own = [c.layer for c in codes if c.output is not None and c.output.reader is None]
    named = {name for layer in own for name in layer.nodes}
    shapes = {n.name: shape_of(n) for n in captured.program.graph.nodes if n.name in named}
    return frozenset(x.key for x in own if all(math.prod(shapes[name][2:]) <= SMALL for name in x.nodes))


def _with_many_tokens(prepared: Prepared) -> frozenset[str]:
    """Keys of attentions with too many tokens for 8 bits to gain anything, unless the plan names them."""
    packed = [x for x in prepared.layers if x.operator.kind == "attention" and x.key not in prepared.plan.layers]
    shapes = {n.name: shape_of(n) for n in prepared.captured.program.graph.nodes if n.target in PACKED}
    sizes = {x.key: [shapes[name][1:] for name in x.nodes] for x in packed}
    return frozenset(key for key, each in sizes.items() if all(t >= MANY_TOKENS * c for t, c in each))


def _paired(layer: Layer) -> Scheme:
    return CONVOLUTIONS if layer.role in CONVOLUTION_ROLES else INTEGER_PRODUCTS


def with_layers(captured: CapturedGraph, codes: Iterable[LayerCodes], *, signed: bool) -> CapturedGraph:
    """The graph computing `codes`' layers in 8 bits, in the spelling that their codes are for."""

    def insert(editor: Editor, node: fx.Node, chosen: LayerCodes, by_node: Mapping[str, LayerCodes]) -> fx.Node:
        if chosen.output is None:
            return insert_integer_layer(editor, node, chosen, by_node)
        return insert_paired_convolution(editor, node, chosen, signed=signed)

    return insert_layers(captured, codes, insert)
