"""How much memory a graph needs, read off the file: its weights, and the results that are alive at the same time.

A result lives from the operator that gives it to the last one that reads it, in the order of the file, which is the
order that ONNX Runtime runs a chain of layers in. Views share memory, and elementwise operators write over an input of
the same size that nobody reads any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx_ir as ir

from cmexport.errors import BackendError

_VIEWS = frozenset({"Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"})
_IN_PLACE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Clip", "Neg", "Sqrt", "Exp", "Erf", "Cast", "Softmax", "BatchNormalization"),
        *("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "QuickGelu"),
    }
)
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Footprint:
    """What a graph keeps in memory, in bytes.

    Attributes:
        stored: weights as they lie in the file.
        inside: those of them that are inside the model file, not beside it.
        halves: those of them in half precision.
        shared_halves: those of these that several operators read, as the steps of a sampler do.
        live: the most that results, inputs and outputs take at one time.
        workspace: the most that one operator takes for itself: the logits of an attention.
        nodes: operators.
        at: name of the result that is made when `live` is reached.
    """

    stored: int
    inside: int
    halves: int
    shared_halves: int
    live: int
    workspace: int
    nodes: int
    at: str

    @property
    def on_device(self) -> int:
        """Bytes on a device that computes in the file's own types, what its runtime needs besides left out."""
        return self.stored + self.live + self.workspace


def footprint(path: Path, *, widened: bool = False) -> Footprint:
    """Read the footprint of an ONNX file; no weights are read.

    Args:
        path: the file, with shapes of all values.
        widened: results in half precision count four bytes a number: on a CPU without kernels for them.

    Raises:
        BackendError: a value has no shape.
    """
    model = ir.load(path)
    if any(True for _ in model.graph.subgraphs()):
        raise BackendError(f"{path.name}: a graph with loops has no single order to read memory off")
    weights = [(v.const_value, len(v.uses())) for v in model.graph.initializers.values() if v.const_value is not None]
    halves = [(tensor.nbytes, uses) for tensor, uses in weights if tensor.dtype in _HALVES]
    live, at = _Liveness(model.graph, path.name, widened=widened).most()
    return Footprint(
        stored=sum(t.nbytes for t, _ in weights),
        inside=sum(t.nbytes for t, _ in weights if not isinstance(t, ir.ExternalTensor)),
        halves=sum(size for size, _ in halves),
        shared_halves=sum(size for size, uses in halves if uses > 1),
        live=live,
        workspace=max((_workspace(node, widened=widened) for node in model.graph), default=0),
        nodes=sum(1 for _ in model.graph),
        at=at,
    )


class _Liveness:
    """Counts what is alive while the nodes of a graph run in order."""

    def __init__(self, graph: ir.Graph, name: str, *, widened: bool) -> None:
        self._graph, self._name, self._widened = graph, name, widened
        self._nodes = list(graph)
        self._fixed = set(graph.initializers.values())
        self._source: dict[ir.Value, ir.Value] = {}
        self._last: dict[ir.Value, int] = {}
        for index, node in enumerate(self._nodes):
            first = node.inputs[0] if node.inputs else None
            if node.op_type in _VIEWS and first is not None and first not in self._fixed:
                self._source[node.outputs[0]] = first
            self._last.update(dict.fromkeys(self._read(node), index))
        self._last.update({self._owner(value): len(self._nodes) for value in (*graph.inputs, *graph.outputs)})

    def most(self) -> tuple[int, str]:
        """Return the most bytes at one time, and the name of the result that is made then."""
        alive = most = sum(map(self._size, self._graph.inputs))
        at = ""
        for index, node in enumerate(self._nodes):
            if node.outputs and node.outputs[0] in self._source:
                made = []
            else:
                made = [output for output in node.outputs if output.name]
            ending = {value for value in self._read(node) if self._last[value] == index}
            size = sum(map(self._size, made))
            over = node.op_type in _IN_PLACE and any(self._size(value) == size for value in ending)
            alive += 0 if over else size
            if alive > most:
                most, at = alive, str(node.outputs[0].name)
            unread = [value for value in made if value not in self._last]
            alive -= sum(map(self._size, (*ending, *unread))) - (size if over else 0)
        return most, at

    def _owner(self, value: ir.Value) -> ir.Value:
        while value in self._source:
            value = self._source[value]
        return value

    def _read(self, node: ir.Node) -> Iterable[ir.Value]:
        """Return what a node reads besides weights, each once and as what owns its memory."""
        return {self._owner(value) for value in node.inputs if value is not None and value not in self._fixed}

    def _size(self, value: ir.Value) -> int:
        if value.shape is None or value.dtype is None or not value.shape.is_static():
            raise BackendError(f"{self._name}: has no shape of {value.name}, so that its memory can't be predicted")
        return prod(value.shape.numpy()) * _width(value.dtype, widened=self._widened)


def _width(dtype: ir.DataType, *, widened: bool) -> int:
    return 4 if widened and dtype in _HALVES else -(-dtype.bitwidth // 8)


def _workspace(node: ir.Node, *, widened: bool) -> int:
    """Return the bytes of the logits of ONNX Runtime's attention: (N, heads, tokens, tokens)."""
    result = node.outputs[0] if node.outputs else None
    if node.op_type != "Attention" or node.domain != "com.microsoft" or result is None or result.shape is None:
        return 0
    batch, tokens, _ = result.shape.numpy()
    dtype = result.dtype or ir.DataType.FLOAT
    return batch * node.attributes.get_int("num_heads", 1) * tokens * tokens * _width(dtype, widened=widened)
