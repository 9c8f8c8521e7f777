"""Graphs that `torch.onnx.export` would only copy before it translates them, translated without that copy.

Before translating, the exporter decomposes: it traces the whole program again (1.2 s of the 1.5 that the demo's graph
takes, 0.6 s for every further step) and visits every operation for type promotion. For the operators that most
rewritten graphs are made of all of that changes `reshape` to `view` and `rsub` to `sub`. Other graphs go the long way;
a test holds the two ways equal, byte for byte.

What is used here is internal to torch 2.13, the only minor release that cmexport accepts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import version_converter
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.onnx._internal.exporter import _core, _registration

aten = torch.ops.aten

PLAIN_OPERATORS = frozenset(
    {
        operator.getitem,
        aten.add.Tensor,
        aten.avg_pool2d.default,
        aten.cat.default,
        aten.clamp.default,
        aten.conv2d.default,
        aten.div.Tensor,
        aten.embedding.default,
        aten.gelu.default,
        aten.group_norm.default,
        aten.linear.default,
        aten.matmul.default,
        aten.mul.Tensor,
        aten.permute.default,
        aten.reshape.default,
        aten.rsub.Scalar,
        aten.scaled_dot_product_attention.default,
        aten.select.int,
        aten.silu.default,
        aten.slice.Tensor,
        aten.split_with_sizes.default,
        aten.sub.Tensor,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.upsample_nearest2d.vec,
        aten.view.default,
    }
)
"""Operators that decomposition leaves as they are, but for those that `_decomposed` writes as it does."""

# Decomposed unless the translations spell them: the exporter's own table has no entry, or has one that expects less.
_NEEDS_SPELLING = frozenset(
    {aten.group_norm.default, aten.scaled_dot_product_attention.default, aten.upsample_nearest2d.vec}
)


def is_plain(program: ExportedProgram, translations: Mapping[Callable[..., Any], Any]) -> bool:
    """Whether every operation is one of `PLAIN_OPERATORS` or spelled by `translations`, all in float32."""
    return all(_is_plain(node, translations) for node in program.graph.nodes)


def _is_plain(node: fx.Node, translations: Mapping[Callable[..., Any], Any]) -> bool:
    if node.op == "placeholder":
        return True
    if node.op != "call_function":
        return node.op == "output"
    if node.target in translations:
        return True
    if node.target not in PLAIN_OPERATORS or node.target in _NEEDS_SPELLING:
        return False
    if node.target is aten.reshape.default and not _is_view(node):
        return False
    if node.target is aten.rsub.Scalar and len(node.args) > 2:
        return False
    value = node.meta["val"]
    results = value if isinstance(value, tuple | list) else [value]
    floats = all(isinstance(r, Tensor) and r.dtype == torch.float32 for r in results)
    # An operand of another type would need a cast; label indices are what embedding takes.
    return floats and (node.target is aten.embedding.default or all(map(_is_float32, node.all_input_nodes)))


def _is_view(reshape: fx.Node) -> bool:
    """Whether a reshape moves no data; one that does is decomposed to a copy and a view."""
    source, *rest = reshape.args
    if reshape.kwargs or len(rest) != 1:
        return False
    assert isinstance(source, fx.Node)
    try:
        source.meta["val"].view(rest[0])
    except (RuntimeError, ValueError):
        return False
    return True


def _is_float32(node: fx.Node) -> bool:
    value = node.meta["val"]
    values = value if isinstance(value, tuple | list) else [value]
    return all(isinstance(v, Tensor) and v.dtype == torch.float32 for v in values)


def translate_plain(
    program: ExportedProgram, translations: Mapping[Callable[..., Any], Callable[..., Any]], opset: int
) -> ir.Model:
    """Return the model that `torch.onnx.export(program, optimize=False)` makes of a program for which `is_plain` holds.

    Raises:
        torch.onnx.errors.OnnxExporterError: an operator has no ONNX form.
    """
    registry = _registration.ONNXRegistry()
    registry._opset_version = opset
    registry.functions = {target: list(known) for target, known in _torchlib(opset).items()}
    for target, translation in translations.items():
        registry.register_op(target, translation, is_complex=False)
    model: ir.Model = _core._exported_program_to_onnx_program(_decomposed(program), registry=registry).model
    # torchlib is written for opset 18.
    version_converter.convert_version(model, opset, fallback=True)
    return model


@cache
def _torchlib(opset: int) -> Mapping[Any, list[Any]]:
    """Return the exporter's own translations; collecting them takes 0.5 s."""
    functions: Mapping[Any, list[Any]] = _registration.ONNXRegistry.from_torchlib(opset_version=opset).functions
    return functions


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """Return the program as decomposition leaves it, its nodes under the same names."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        args, kwargs = (fx.map_arg(given, copied.__getitem__) for given in (node.args, node.kwargs))
        if node.target is aten.reshape.default:
            copied[node] = graph.create_node("call_function", aten.view.default, args, kwargs, "view")
        elif node.target is aten.rsub.Scalar:
            copied[node] = graph.create_node("call_function", aten.sub.Tensor, args[::-1], kwargs, "sub")
        else:
            copied[node] = graph.node_copy(node, copied.__getitem__)
        copied[node].meta = dict(node.meta)
    module = _LazyGraphModule(program.graph_module, graph)
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )
