"""Readers that get codes of their own, around a fault of Qualcomm's compiler.

QNN 2.40 compiles some 16-bit results with two readers into something else altogether, and says nothing: an Add whose
sum x goes into x sigmoid(x), below 16 x 16 positions (0.1 dB of signal over error against 55.8), and a Concat before a
norm and a convolution (a tiny UNet's pictures have 23.1 dB, and 51.9 with this, where the CPU has 52.1). A step larger
by a thousandth for one of the two is enough, since that reader then gets a Convert of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

_WIDENED = np.float32(1.001)
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def part_readers(model: onnx.ModelProto) -> None:
    """Give each such reader's input a pair with a step of its own, in place; the nodes' order is not kept."""
    stored = {i.name: i for i in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in list(model.graph.node):
        read = producers.get(node.input[0]) if node.input else None
        if read is None or read.op_type != "DequantizeLinear" or not _stumbles(node, producers):
            continue
        own = f"{node.name}_input"
        step = numpy_helper.to_array(stored[read.input[1]]) * _WIDENED
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(step, np.float32), f"{own}_step"))
        write = [node.input[0], f"{own}_step", read.input[2]], [f"{own}_codes"]
        again = [f"{own}_codes", f"{own}_step", read.input[2]], [own]
        model.graph.node.append(helper.make_node("QuantizeLinear", *write, f"{own}_quantize"))
        model.graph.node.append(helper.make_node("DequantizeLinear", *again, f"{own}_dequantize"))
        node.input[0] = own


def _stumbles(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    if node.op_type == "Sigmoid":
        return True
    if node.op_type != "Reshape":
        return False
    source = producers.get(node.input[0])
    while source is not None and source.op_type in _PAIR:
        source = producers.get(source.input[0])
    return source is not None and source.op_type == "Concat"
