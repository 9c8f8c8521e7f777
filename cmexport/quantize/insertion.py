"""Put layers in 8 bits into a captured graph in place of the ones they stand for; how one looks, a target says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from cmexport.graph.assembly import assemble
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import Editor, argument, attribute
from cmexport.graph.tracing import to_module
from cmexport.quantize.codes import LayerCodes

Insert = Callable[[Editor, fx.Node, LayerCodes, Mapping[str, LayerCodes]], fx.Node]
"""Makes the node that computes what a node does with its codes, inserted before it; also gets the codes of every node
that is to compute in 8 bits, by name."""


def insert_layers(captured: CapturedGraph, codes: Iterable[LayerCodes], insert: Insert) -> CapturedGraph:
    """The graph computing `codes`' layers in 8 bits; the given graph keeps its own."""
    module = to_module(captured.program)
    editor = Editor(module)
    by_node = {name: c for c in codes for name in c.layer.nodes}
    # In one pass: assembling gives nodes other names.
    for node in [n for n in module.graph.nodes if n.name in by_node]:
        node.replace_all_uses_with(insert(editor, node, by_node[node.name], by_node))
    editor.clean()
    return replace(captured, program=assemble(module, captured.examples()))


def corrected_bias(editor: Editor, node: fx.Node, codes: LayerCodes) -> Tensor:
    """The node's own bias and the codes' correction, (O,) float64."""
    stored = attribute(editor.module, argument(node, 2, "bias"))
    own = torch.zeros(()) if stored is None else stored.detach()
    return own.double() + codes.bias.double()
