"""Pairs around every operation of an ONNX file, by ONNX Runtime's own tool and its rules for Qualcomm's NPUs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx

from cmexport.quantize.codes import LayerCodes
from cmexport.targets.onnx.npu.ranges import Range
from cmexport.targets.onnx.npu.split_readers import part_readers
from cmexport.targets.onnx.npu.tables import find_tables, pair_tables
from cmexport.targets.onnx.npu.weights import Weights

LEVELS = 255.0
"""Largest byte."""


def with_pairs(
    model: onnx.ModelProto, ranges: Mapping[str, Range], weights: Weights, in_8_bits: Collection[str]
) -> onnx.ModelProto:
    """The same graph between 16-bit pairs, weights in 8 bits; nodes in `in_8_bits` read and write 8-bit codes.

    Nodes are no longer in an order that runs.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    tables = find_tables(model)
    overrides: dict[str, list[dict[str, Any]]] = {}
    for name, step, zero in (*_levels(model, ranges), *((row, t.step, t.zero_point) for t in tables for row in t.rows)):
        zero_point = np.array(zero, np.uint16)
        overrides[name] = [{"quant_type": QuantType.QUInt16, "scale": np.array(step), "zero_point": zero_point}]
    for name, (changed,) in _conversions(model, in_8_bits, QuantType.QUInt16, QuantType.QUInt8).items():
        overrides[name] = [{**overrides.get(name, [{}])[0], **changed}]
    overrides |= {name: _steps(codes, QuantType.QInt8) for name, codes in weights.codes.items()}
    overrides |= {name: [{"quant_type": QuantType.QUInt8}] for name in _norm_weights(model)}
    config = get_qnn_qdq_config(
        model,
        None,
        activation_type=QuantType.QUInt16,
        weight_type=QuantType.QInt8,
        per_channel=True,
        init_overrides=overrides,
        add_qtype_converts=False,
        nodes_to_exclude=[name for table in tables for name in table.nodes],
    )
    seen = {k: (np.array(low, np.float32), np.array(high, np.float32)) for k, (low, high) in ranges.items()}
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            config.per_channel,
            config.reduce_range,
            config.weight_type,
            config.activation_type,
            TensorsData(CalibrationMethod.MinMax, seen),
            config.nodes_to_quantize or [],
            config.nodes_to_exclude or [],
            config.op_types_to_quantize,
            config.extra_options,
        )
        result: onnx.ModelProto = quantizer.quantize_model()
    pair_tables(result, tables)
    part_readers(result)
    return result


def _levels(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> list[tuple[str, np.float32, int]]:
    """Pictures in bytes, with their step and zero: whole levels stay whole, or a Cast cuts 254.998 down to 254."""
    rounded = [(n.input[0], n.output[0]) for n in model.graph.node if n.op_type == "Round"]
    return [(name, np.float32(1), 0) for source, name in rounded if ranges[source] == (0.0, LEVELS)]


def _norm_weights(model: onnx.ModelProto) -> frozenset[str]:
    """Name LayerNormalization's stored weights: HTP's LayerNorm of 16-bit codes takes unsigned bytes, and no signed."""
    stored = {i.name for i in model.graph.initializer}
    norms = (n for n in model.graph.node if n.op_type == "LayerNormalization")
    return frozenset(n.input[1] for n in norms if n.input[1] in stored)


def _conversions(
    model: onnx.ModelProto, in_8_bits: Collection[str], wide: Any, narrow: Any
) -> dict[str, list[dict[str, Any]]]:
    """Tensors that those nodes read are converted for them; what they write is converted for its readers."""
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    result: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.name in in_8_bits:
            chosen = readers[node.input[0]] & set(in_8_bits)
            result[node.input[0]] = [{"quant_type": wide, "convert": {"quant_type": narrow, "recv_nodes": chosen}}]
            others = readers.get(node.output[0], set())
            result[node.output[0]] = [{"quant_type": narrow, "convert": {"quant_type": wide, "recv_nodes": others}}]
    return result


def _steps(codes: LayerCodes, kind: Any) -> list[dict[str, Any]]:
    """The steps that a weight has been rounded with, one per output channel."""
    steps = (codes.weight_step / codes.step[0]).numpy()
    return [{"quant_type": kind, "axis": 0, "scale": step, "zero_point": np.int8(0)} for step in steps]


@contextmanager
def _quiet() -> Iterator[None]:
    """The tool warns of what is meant here, through the root logger."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
