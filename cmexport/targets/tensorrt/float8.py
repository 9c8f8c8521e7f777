"""8-bit floats in the one form that TensorRT takes: Q/DQ pairs, and weights stored in 8 bits.

Float8 is E4M3 without infinities (FLOAT8E4M3FN: 4 exponent bits, largest number 448), with one scale for a tensor,
weights too, as TensorRT's kernels have it. Everything that is not quantized is float16, and so are the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import Tensor

from cmexport.graph.assembly import assemble
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import Editor
from cmexport.graph.tracing import to_module
from cmexport.onnxfile.half import SMALLEST_NORMAL, round_to_normal_half
from cmexport.onnxfile.translations import Translations
from cmexport.quantize.activations import plan_activations
from cmexport.quantize.weights import weight_nodes
from cmexport.targets.base import TellStep

LARGEST = 448.0
FLOAT8 = ir.DataType.FLOAT8E4M3FN

# What is left in float16: activations that would cost more than this allows, were they rounded to integers.
_ACTIVATION_DB = 48.0
_WEIGHT_INPUT = 1


@dataclass(frozen=True)
class Float8Plan:
    """What is computed in 8-bit floats.

    Attributes:
        scales: of each activation, by the name of its node; normal half numbers.
        left: activations that stay in float16 because they would cost too much.
    """

    scales: Mapping[str, float]
    left: tuple[str, ...]


def plan_float8(captured: CapturedGraph, progress: TellStep) -> Float8Plan:
    """Scales from the ranges that the exact input law gives."""
    progress("activation ranges")
    found = plan_activations(captured, _ACTIVATION_DB)
    reaches = {r.name: max(r.zero_point, 255 - r.zero_point) * r.scale for r in found.ranges}
    return Float8Plan({name: _scale(reach) for name, reach in reaches.items()}, found.left)


def _scale(reach: float) -> float:
    """The normal half number that brings `reach` to the largest float8 number."""
    step = np.float32(max(reach / LARGEST, SMALLEST_NORMAL)).reshape(1)
    return float(round_to_normal_half(step)[0][0])


@torch.library.custom_op("cmexport::float8_pair", mutates_args=())
def float8_pair(x: Tensor, scale: float) -> Tensor:
    """What float8 numbers times `scale` leave of `x`, of any shape."""
    codes = (x / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return codes.to(x.dtype) * scale


@float8_pair.register_fake
def _pair_shape(x: Tensor, scale: float) -> Tensor:
    del scale
    return torch.empty_like(x)


def _spelled_pair(x: Any, scale: float) -> Any:
    step: Any = op.Constant(value_float=scale)
    zero: Any = op.Constant(value=onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0]))
    return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)


def float8_translations() -> Translations:
    """Translation of the float8 pair to ONNX."""
    return {torch.ops.cmexport.float8_pair.default: _spelled_pair}


def with_pairs(captured: CapturedGraph, scales: Mapping[str, float]) -> CapturedGraph:
    """The graph with a pair behind every named node, for its weighted users only."""
    module = to_module(captured.program)
    users = weight_nodes(module)
    editor = Editor(module)
    by_name = {n.name: n for n in module.graph.nodes}
    for name, scale in scales.items():
        source = by_name[name]
        pair = editor.call(source.next, torch.ops.cmexport.float8_pair.default, source, scale)
        for user in users:
            if user.args[0] is source:
                user.update_arg(0, pair)
    return replace(captured, program=assemble(module, captured.examples()))


def store_weights(model: ir.Model) -> int:
    """Store the weight of every operator that reads a pair in 8 bits, nearest numbers; returns how many there are."""
    stored: dict[ir.Value, ir.Value] = {}
    graph = model.graph
    for node in list(graph):
        weight = node.inputs[_WEIGHT_INPUT] if _reads_pair(node) else None
        if weight is None or weight.const_value is None:
            continue
        if weight not in stored:
            stored[weight] = _dequantized(graph, weight)
        node.replace_input_with(_WEIGHT_INPUT, stored[weight])
    for value in list(graph.initializers.values()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name or ""]
    return len(stored)


def _reads_pair(node: ir.Node) -> bool:
    if node.op_type not in ("Conv", "MatMul", "Gemm") or node.inputs[0] is None:
        return False
    producer = node.inputs[0].producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _dequantized(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    """The weight as an 8-bit initializer behind a DequantizeLinear, which is put in front of everything."""
    assert weight.const_value is not None
    numbers = weight.const_value.numpy().astype(np.float32)
    scale = _scale(float(np.abs(numbers).max(initial=0.0)))
    codes = np.clip(numbers / scale, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    inputs = [
        _initializer(graph, f"{weight.name}_codes", codes, FLOAT8),
        _initializer(graph, f"{weight.name}_scale", np.float32(scale), ir.DataType.FLOAT),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, name=f"{weight.name}_dequantize")
    result = dequantize.outputs[0]
    result.name, result.dtype, result.shape = f"{weight.name}_dequantized", ir.DataType.FLOAT, weight.shape
    graph.insert_before(graph[0], dequantize)
    return result


def _initializer(graph: ir.Graph, name: str, numbers: Any, kind: ir.DataType) -> ir.Value:
    numbers = np.asarray(numbers)
    value = ir.Value(
        name=name,
        shape=ir.Shape(numbers.shape),
        type=ir.TensorType(kind),
        const_value=ir.Tensor(numbers, dtype=kind, name=name),
    )
    graph.register_initializer(value)
    return value
