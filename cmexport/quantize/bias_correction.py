"""Shift biases so that every layer's mean output is what it was before rounding.

Layer by layer in the graph's order, each on inputs that come from the layers before it in 8 bits (Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction", arXiv:1906.04721, section 4.2, with drawn
inputs in place of assumed ones). Two copies of the network run side by side on a handful of pictures, one node at a
time, so the whole costs one drawing of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.tracing import to_module
from cmexport.quantize.codes import LayerCodes, with_bias
from cmexport.quantize.layers import Layer, LayerInterpreter, Multiply

PICTURES = 16
SEED = 60_000


def correct_biases(
    captured: CapturedGraph, codes: Sequence[LayerCodes], pictures: int = PICTURES, seed: int = SEED
) -> tuple[LayerCodes, ...]:
    """The same codes with their biases corrected.

    Layers that a few-step graph evaluates more than once share one bias, and an attention's output is not its
    projection's: those keep theirs.
    """
    module = to_module(captured.program)
    # Codes for another layer may cut what is below 0, which is that layer's to lose: compared before they are made.
    whole = {c.layer.key: c for c in codes if _correctable(c.layer) and c.output is not None and c.output.reader}
    chosen = {c.layer.key: c if c.layer.key not in whole else replace(c, output=None) for c in codes}

    def quantized(layer: Layer, node: fx.Node, x: Tensor, multiply: Multiply) -> Tensor:
        del node
        return chosen[layer.key].computed(x, multiply)

    inputs = [captured.examples(seed + i) for i in range(pictures)]
    layers = [c.layer for c in codes]
    plain = [_started(fx.Interpreter(module), given) for given in inputs]
    rounded = [_started(LayerInterpreter(module, layers, quantized), given) for given in inputs]
    correctable = {c.layer.nodes[0]: c.layer for c in codes if _correctable(c.layer)}
    last_uses = plain[0].user_to_last_uses
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "output":
                break
            for run in (*plain, *rounded):
                if node not in run.env:
                    run.env[node] = run.run_node(node)
            if (layer := correctable.get(node.name)) is not None:
                shift = torch.stack(
                    [
                        (layer.rows(p.env[node]) - layer.rows(r.env[node])).mean(dim=1)
                        for p, r in zip(plain, rounded, strict=True)
                    ]
                ).mean(dim=0)
                chosen[layer.key] = with_bias(whole.get(layer.key, chosen[layer.key]), shift)
                for run in rounded:
                    run.env[node] = run.run_node(node)
            for run in (*plain, *rounded):
                for done in last_uses.get(node, ()):
                    run.env.pop(done, None)
    return tuple(chosen[c.layer.key] for c in codes)


def _correctable(layer: Layer) -> bool:
    return len(layer.nodes) == 1 and layer.operator.kind != "attention"


def _started(interpreter: fx.Interpreter, inputs: Mapping[str, Tensor]) -> fx.Interpreter:
    """With the graph's inputs in place, ready to run node by node."""
    for node in interpreter.graph.nodes:
        if node.op == "placeholder":
            interpreter.env[node] = inputs[node.name]
    return interpreter
