"""Residual sums that convolutions take in: Conv and Add become ONNX Runtime's FusedConv.

ONNX Runtime's optimizer does the same when it opens a file; written down, the file has a node less for every residual
block and opening it has less to look for. The sum is added to the convolution's result as Add would.

Only where a convolution made the other operand as well: that one is then in blocks of channels, which is how ONNX
Runtime's fast convolution wants it. In rows (after attention, say) it would leave the whole convolution to the slow one
(8.3 ms in place of 0.9, from 64 to 64 channels at 64x64), while a sum alone is brought into blocks.
Source: onnxruntime docs/ContribOperators.md (com.microsoft.FusedConv, input Z). Its kernel takes float32 alone.
"""

from __future__ import annotations

import onnx_ir as ir

from cmexport.targets.onnx.narrow import BLOCK


def fuse_sums(model: ir.Model) -> int:
    """Give every convolution whose only reader is a sum that sum's other operand; return how many."""
    graph = model.graph
    order = {node: index for index, node in enumerate(graph)}
    fused = 0
    for total in list(graph):
        found = _convolution(total, order) if total.op_type == "Add" and total.domain == "" else None
        if found is None:
            continue
        conv, other = found
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        node = ir.Node("com.microsoft", "FusedConv", [*conv.inputs[:2], bias, other], list(conv.attributes.values()))
        node.outputs[0].name = total.outputs[0].name
        node.outputs[0].shape, node.outputs[0].type = total.outputs[0].shape, total.outputs[0].type
        graph.insert_after(total, node)
        total.outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
        graph.remove([total, conv], safe=True)
        order[node] = order[total]
        fused += 1
    if fused:
        model.opset_imports.setdefault("com.microsoft", 1)
    return fused


def _convolution(total: ir.Node, order: dict[ir.Node, int]) -> tuple[ir.Node, ir.Value] | None:
    """Find the convolution that comes last in a sum of two results of one shape, and the other result."""
    left, right = total.inputs
    if left is None or right is None or left is right or left.shape is None or left.shape != right.shape:
        return None
    pairs = [(value.producer(), value, other) for value, other in ((left, right), (right, left))]
    mine = [
        (order[node], node, other)
        for node, value, other in pairs
        if node is not None
        and node.op_type == "Conv"
        and node in order
        and len(value.uses()) == 1
        and not value.is_graph_output()
        and value.dtype == ir.DataType.FLOAT
        and _is_fast(node)
        and _is_in_blocks(other)
    ]
    if not mine:
        return None
    _, conv, other = max(mine, key=lambda found: found[0])
    return conv, other


def _is_in_blocks(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in ("Conv", "FusedConv") and _is_fast(producer)


def _is_fast(conv: ir.Node) -> bool:
    """Whether ONNX Runtime's convolution in blocks takes the layer: the input in whole blocks, or less than one."""
    weight, group = conv.inputs[1], conv.attributes.get_int("group", 1)
    channels = weight.shape[1] if weight is not None and weight.shape is not None else None
    return group == 1 and isinstance(channels, int) and (channels < BLOCK or channels % BLOCK == 0)
