"""Write a model file one weight at a time.

Serializing a 600 MB model through the protobuf library holds the weights three times (tensors, messages, bytes): 4.3 GB
at the peak for ImageNet-64. The wire format allows better: a message is its fields one after the other, so the graph is
written without weights and the weights follow as further `initializer` fields, inside the length announced before.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

_LENGTH_DELIMITED = 2
_MODEL_GRAPH = 7  # ModelProto.graph in onnx.proto
_GRAPH_INITIALIZER = 5  # GraphProto.initializer
_TENSOR_RAW_DATA = 9  # TensorProto.raw_data


def write_model(model: ir.Model, path: Path) -> None:
    """Write `model` with its weights inside the file; the bytes mean what `ir.save` would have written.

    Raises:
        OSError: the file can't be written.
    """
    weights = list(model.graph.initializers.values())
    # A value that is not an initializer any more serializes without its number; they are put back below.
    model.graph.initializers.clear()
    try:
        proto = ir.to_proto(model)
    finally:
        for value in weights:
            model.graph.register_initializer(value)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    length = len(graph) + sum(len(head) + size for head, size, _ in map(_measure, weights))
    with path.open("wb") as file:
        file.write(proto.SerializeToString())
        file.write(_head(_MODEL_GRAPH, length))
        file.write(graph)
        for head, _, body in map(_measure, weights):
            file.write(head)
            file.writelines(body)


def _measure(value: ir.Value) -> tuple[bytes, int, Iterator[bytes]]:
    """Field head, size of the tensor message, and the message's bytes (made only when asked for)."""
    assert value.const_value is not None
    tensor = value.const_value
    described = ir.to_proto(ir.Tensor(tensor.numpy().reshape(-1)[:0], dtype=tensor.dtype, name=value.name))
    del described.dims[:]
    described.dims.extend(tensor.shape.numpy())
    described.ClearField("raw_data")
    fields = described.SerializeToString()
    raw = _head(_TENSOR_RAW_DATA, tensor.nbytes)
    size = len(fields) + len(raw) + tensor.nbytes

    def body() -> Iterator[bytes]:
        yield fields
        yield raw
        yield tensor.tobytes()

    return _head(_GRAPH_INITIALIZER, size), size, body()


def _head(field: int, length: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
