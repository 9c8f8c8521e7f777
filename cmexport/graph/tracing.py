"""A module as an `ExportedProgram` with named inputs, and a program as a graph that can be edited."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx._lazy_graph_module import _LazyGraphModule


def trace(module: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Export `module` with all inputs passed by name, static shapes, no decomposition."""
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter's own remarks about a network's habits; what matters is compared number by number later.
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        return torch.export.export(module, (), dict(inputs), strict=False)


def to_module(program: ExportedProgram) -> fx.GraphModule:
    """Make the program a GraphModule whose weights are attributes, free of the exporter's runtime assertions.

    Its Python code is written when it is called, if ever: rewrites look at the graph only, and writing code after each
    was a third of their time.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    assertions = {
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
    }
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in assertions and not node.users:
            module.graph.erase_node(node)
    return _LazyGraphModule.from_graphmodule(module)
