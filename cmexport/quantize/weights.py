"""The weights of a captured graph that are worth compressing, and the graph with others in their place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from cmexport.graph.assembly import assemble
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import aten, attribute
from cmexport.graph.tracing import to_module

LEAST_ELEMENTS = 1024
"""Below this a weight's scales and table cost what its elements save."""

# Their second argument is the weight, whose first axis counts output channels.
_WEIGHTED = {aten.conv2d.default, aten.linear.default}


@dataclass(frozen=True)
class GraphWeight:
    """One tensor, under every name that the graph has for it (a few-step graph folds copies for its steps).

    `value` is (channels_out, ...), float32.
    """

    names: tuple[str, ...]
    value: Tensor


def find_weights(module: fx.GraphModule) -> tuple[GraphWeight, ...]:
    """Weights of convolutions and linear layers with at least `LEAST_ELEMENTS` elements, in the graph's order."""
    names = weights_by_name(module)
    same: dict[str, list[str]] = {}
    for name, value in names.items():
        same.setdefault(weight_digest(value), []).append(name)
    return tuple(GraphWeight(tuple(group), names[group[0]].detach()) for group in same.values())


def weights_by_name(module: fx.GraphModule) -> dict[str, Tensor]:
    """The tensors that `weight_nodes` read, by the name of their attribute, in the graph's order."""
    found: dict[str, Tensor] = {}
    for node in weight_nodes(module):
        source, value = node.args[1], attribute(module, node.args[1])
        assert isinstance(source, fx.Node)
        assert value is not None
        found[str(source.target)] = value
    return found


def weight_nodes(module: fx.GraphModule) -> list[fx.Node]:
    """Convolutions and linear layers whose weight, the second argument, is stored and large enough."""
    found = []
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _WEIGHTED and len(node.args) > 1:
            weight = attribute(module, node.args[1])
            if weight is not None and weight.numel() >= LEAST_ELEMENTS:
                found.append(node)
    return found


def with_weights(captured: CapturedGraph, values: Mapping[str, Tensor]) -> CapturedGraph:
    """The same graph with other numbers in the named weights; the given graph keeps its own."""
    module = to_module(captured.program)
    set_weights(module, values)
    return replace(captured, program=assemble(module, captured.examples()))


def set_weights(module: fx.GraphModule, values: Mapping[str, Tensor]) -> None:
    """Put tensors into a module that to_module made, as new objects: the program it came from stays as it is."""
    for name, value in values.items():
        *path, last = name.split(".")
        owner = module.get_submodule(".".join(path))
        if last in owner._parameters:
            owner._parameters[last] = torch.nn.Parameter(value.contiguous(), requires_grad=False)
        else:
            owner._buffers[last] = value.contiguous()


def weight_digest(value: Tensor) -> str:
    """Tell weights with the same shape and numbers from others."""
    plain = value.detach().contiguous()
    return hashlib.sha256(str(tuple(plain.shape)).encode() + plain.numpy().tobytes()).hexdigest()
