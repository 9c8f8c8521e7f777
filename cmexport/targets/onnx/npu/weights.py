"""Rounded weights and corrected biases put into an ONNX file under the layers they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from cmexport.quantize.codes import LayerCodes
from cmexport.quantize.layers import Layer
from cmexport.runner import Array

_WEIGHTED = frozenset({"Conv", "MatMul", "Gemm"})
_BIASED = frozenset({"Conv", "Gemm", "InstanceNormalization", "LayerNormalization"})


@dataclass(frozen=True, eq=False)
class Weights:
    """What became of the layers' weights.

    Attributes:
        codes: by the initializer's name.
        nodes: names of the nodes that multiply by a layer's weight, by the layer's key.
    """

    codes: Mapping[str, LayerCodes]
    nodes: Mapping[str, tuple[str, ...]]


def put_weights(model: onnx.ModelProto, layers: Iterable[Layer], codes: Iterable[LayerCodes]) -> Weights:
    """Replace weights by what their codes stand for and add the corrections to biases, in place.

    A weight is recognized by its numbers: translation renames some, and lays others the other way round.
    """
    keys = {}
    for layer in layers:
        weight = layer.weight.numpy()
        keys[weight.tobytes()] = layer.key
        if weight.ndim == 2:
            keys[np.ascontiguousarray(weight.T).tobytes()] = layer.key
    rounded = {c.layer.key: c for c in codes}
    _give_each_its_own_bias(model)
    stored = {i.name: i for i in model.graph.initializer}
    owners = {name: keys.get(numpy_helper.to_array(tensor).tobytes()) for name, tensor in stored.items()}
    placed: dict[str, LayerCodes] = {}
    nodes: dict[str, tuple[str, ...]] = {}
    for node in model.graph.node:
        key = owners.get(node.input[1]) if node.op_type in _WEIGHTED else None
        if key is None:
            continue
        nodes[key] = (*nodes.get(key, ()), node.name)
        if key in rounded and node.op_type == "Conv":
            placed[node.input[1]] = rounded[key]
            _correct(model, node, stored, rounded[key].bias.numpy())
    for name, chosen in placed.items():
        stored[name].CopyFrom(numpy_helper.from_array(chosen.weight.numpy(), name))
    return Weights(placed, nodes)


def _give_each_its_own_bias(model: onnx.ModelProto) -> None:
    """The step of a bias is its input's times its weight's, so the tool copies a bias that several nodes read.

    It calls the sixth copy of `val_4` `val_46`, which is the name of something else.
    """
    stored = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _BIASED and len(node.input) > 2 and node.input[2] in stored:
            own = onnx.TensorProto()
            own.CopyFrom(stored[node.input[2]])
            own.name = node.input[2] = f"{node.name}_bias"
            model.graph.initializer.append(own)


def _correct(model: onnx.ModelProto, node: onnx.NodeProto, stored: Mapping[str, onnx.TensorProto], by: Array) -> None:
    if len(node.input) > 2:
        own = stored[node.input[2]]
        own.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(own) + by, own.name))
    else:
        node.input.append(f"{node.name}_bias")
        model.graph.initializer.append(numpy_helper.from_array(by, node.input[2]))
