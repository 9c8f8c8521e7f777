"""Half precision in the captured graph: float16 weights and arithmetic, float32 at the border.

coreai-torch has no option for it; it writes the types that it finds. Three things stay in float32: the inputs, what
lies between the last sum and the output (clamp, scaling to bytes, rounding), and inside the runtime the statistics of
norms, which coreai-torch widens by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from cmexport.errors import BackendError
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import finishing_nodes
from cmexport.graph.fxtools import Editor, aten, attribute
from cmexport.graph.tracing import to_module, trace

LARGEST = 65504.0


def to_half(captured: CapturedGraph) -> CapturedGraph:
    """The same program in half precision; its inputs and outputs keep their types.

    Raises:
        BackendError: a weight does not fit float16.
    """
    module = to_module(captured.program)
    editor = Editor(module)
    inputs = [n for n in editor.graph.nodes if n.op == "placeholder"]
    output = next(n for n in editor.graph.nodes if n.op == "output")
    # From the output back; the last one is where the picture is widened.
    finishing = list(finishing_nodes(editor.graph))
    widened = finishing[-1] if finishing else output
    (picture,) = widened.all_input_nodes
    for node in list(editor.graph.nodes):
        if node.op == "get_attr":
            _halve_weight(editor, node)
        elif node.op == "call_function" and node not in finishing:
            node.args = fx.node.map_aggregate(node.args, _narrow)
            node.kwargs = fx.node.map_aggregate(node.kwargs, _narrow)
    for node in inputs:
        _halve_input(editor, node)
    with editor.graph.inserting_before(widened):
        wide = editor.graph.call_function(aten.to.dtype, (picture, torch.float32))
    widened.replace_input_with(picture, wide)
    editor.clean()
    return replace(captured, program=trace(module, captured.examples()))


def _narrow(value: Any) -> Any:
    """Casts that the network makes to float32 would carry it from there on."""
    return torch.float16 if value is torch.float32 else value


def _halve_weight(editor: Editor, node: fx.Node) -> None:
    weight = attribute(editor.module, node)
    if weight is None or weight.dtype != torch.float32:
        return
    # A new tensor: these are the model's own, and its reference pictures are drawn later.
    half = weight.detach().to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise BackendError(f"fp16: weight {node.target} holds {float(weight.abs().max()):.3g}, beyond {LARGEST:g}")
    node.replace_all_uses_with(editor.constant(node, half, key=str(node.target)))


def _halve_input(editor: Editor, node: fx.Node) -> None:
    if node.meta["val"].dtype != torch.float32 or not node.users:
        return
    with editor.graph.inserting_after(node):
        half = editor.graph.call_function(aten.to.dtype, (node, torch.float16))
    node.replace_all_uses_with(half, delete_user_cb=lambda user: user is not half)
