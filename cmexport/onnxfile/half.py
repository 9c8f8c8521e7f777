"""Half precision with the casts written into the graph: float32 at the border and where it matters, 16 bits elsewhere.

What stays in float32:

* normalization statistics (InstanceNormalization, LayerNormalization) and the affine right after them: squares of
  activations above 256 overflow float16;
* the picture stream: elementwise operations on tensors shaped like the picture outside the network (c_skip x + c_out F,
  renoising, the final clamp);
* where the sampler multiplies the network's answer, what gives it: its last product, and the activation before that.
  Rounding an answer of 1 costs 48 dB at a factor of 14.65 (epsilon prediction at t = 999);
* what is looked up in tables beyond half's range, as scales by label can be;
* anything this file does not know: an unknown operator keeps its float32 inputs and outputs.

Stock converters write files that do not load (four Resize nodes share one scales constant and their casts get one
name) or lower precision before constants are folded; here every value gets at most one cast, with a unique name.

Stored weights are rounded to *normal* half numbers: magnitudes below 2^-14 become 0 or 2^-14, whichever is nearer, so
that runtimes that flush subnormals compute the same picture as those that don't. The rounding error of at most 3.1e-5
is that of an ordinary half number near 0.06. bfloat16, which has float32's range, is rounded as usual.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from cmexport.errors import BackendError

FLOAT, HALF, BFLOAT = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
SMALLEST_NORMAL = 2.0**-14
LARGEST = 65504.0
_AGAIN = 2**20
"""Bytes of a rounded weight from which it is not held."""

ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Clip", "Min", "Max", "Neg"})
# Operators whose result only rearranges their data input: they follow its type instead of deciding.
MOVEMENT = frozenset(
    {"Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Gather", "Identity", "Expand", "Pad", "Flatten"}
)
# Operators computed in half precision.
COMPUTE = ELEMENTWISE | frozenset(
    {
        *("Conv", "ConvTranspose", "MatMul", "Gemm", "Attention", "MultiHeadAttention"),
        *("Sigmoid", "QuickGelu", "Relu", "LeakyRelu", "Gelu", "Erf", "Tanh", "Softmax", "Sqrt", "Pow", "Exp"),
        *("AveragePool", "MaxPool", "GlobalAveragePool", "Resize", "Concat", "DepthToSpace", "SpaceToDepth"),
    }
)
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_ACTIVATIONS = frozenset({"QuickGelu", "Relu", "LeakyRelu", "Gelu", "Tanh", "Sigmoid", "Mul"})
# Float inputs that the ONNX specification types as float32 whatever the data is: Resize's roi and scales.
ALWAYS_FLOAT_INPUTS = {"Resize": (1, 2)}


@dataclass(frozen=True)
class HalfReport:
    """What converting a file to half precision decided.

    Attributes:
        half_nodes: operators computing in 16 bits.
        float_nodes: operators kept in float32, by operator type.
        casts: casts written into the graph.
        largest_constant: largest magnitude among 16-bit constants.
        flushed_weights: stored weights moved from the subnormal range to 0 or 2^-14.
    """

    half_nodes: int
    float_nodes: dict[str, int]
    casts: int
    largest_constant: float
    flushed_weights: int


@dataclass
class _Conversion:
    """Running state: the type each value has now, and the casts and weights made so far."""

    graph: ir.Graph
    half: ir.DataType
    kept: frozenset[str]
    compute: frozenset[str]
    types: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)
    weights: dict[ir.Value, ir.Value] = field(default_factory=dict)
    half_nodes: int = 0
    float_nodes: dict[str, int] = field(default_factory=dict)
    largest: float = 0.0
    flushed: int = 0


def to_half(
    model: ir.Model,
    picture: tuple[int, ...],
    half: ir.DataType = HALF,
    kept: Collection[str] = (),
    also: Collection[str] = (),
    *,
    wide_answers: bool = False,
) -> HalfReport:
    """Lower a float32 model to 16 bits in place; inputs and outputs keep their types.

    Args:
        model: after translation, with shapes on its values.
        picture: shape of the samples, whose stream around the network stays wide; see `Signature.sample`.
        half: FLOAT16 or BFLOAT16.
        kept: operators to leave in float32, by the name of their first output.
        also: operator types that compute in 16 bits besides `COMPUTE`, because the runtime keeps what must be wide in
            float32 inside them.
        wide_answers: keep what gives the network's answers in float32.

    Raises:
        BackendError: a constant does not fit float16.
    """
    graph = model.graph
    if len(list(graph.all_nodes())) != len(list(graph)):
        raise BackendError("fp16: this graph has subgraphs (If, Loop), which the half-precision pass does not convert")
    answers = _answering(graph, picture) if wide_answers else ()
    state = _Conversion(graph, half, frozenset((*kept, *answers)), COMPUTE | frozenset(also))
    initializers = set(graph.initializers.values())
    for value in (*graph.inputs, *initializers):
        if value.dtype is not None:
            state.types[value] = value.dtype
    for node in list(graph):
        kind = _decide(node, state, initializers, picture)
        if kind is None:
            _note_types(node, state.types)
            continue
        if kind is half:
            state.half_nodes += 1
        else:
            state.float_nodes[node.op_type] = state.float_nodes.get(node.op_type, 0) + 1
        _convert(node, kind, state, initializers)
    _restore_outputs(state)
    for value in initializers:
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[value.name or ""]
    return HalfReport(state.half_nodes, state.float_nodes, len(state.casts), state.largest, state.flushed)


def _float_inputs(node: ir.Node, state: _Conversion) -> Iterable[tuple[int, ir.Value]]:
    fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, ())
    for index, value in enumerate(node.inputs):
        if value is not None and index not in fixed and state.types.get(value) in (FLOAT, state.half):
            yield index, value


def _decide(
    node: ir.Node,
    state: _Conversion,
    initializers: set[ir.Value],
    picture: tuple[int, ...],
) -> ir.DataType | None:
    """Return the type a node computes in; None when it handles no float data."""
    inputs = [value for _, value in _float_inputs(node, state)]
    if not inputs:
        return None
    if node.op_type in MOVEMENT:
        data = node.inputs[0]
        assert data is not None
        if data in initializers:
            return FLOAT if state.half is HALF and _is_beyond_half(data) else state.half
        return state.types.get(data) if state.types.get(data) in (FLOAT, state.half) else None
    if node.op_type not in state.compute or node.outputs[0].name in state.kept:
        return FLOAT
    in_stream = node.op_type in ELEMENTWISE and tuple(node.outputs[0].shape or ()) == picture
    return FLOAT if in_stream else state.half


def _is_beyond_half(constant: ir.Value) -> bool:
    """Whether a constant's numbers, all of them finite, go where float16 doesn't."""
    assert constant.const_value is not None
    return bool(LARGEST < np.abs(constant.const_value.numpy()).max(initial=0.0) < np.inf)


def _answering(graph: ir.Graph, picture: tuple[int, ...]) -> Iterator[str]:
    """Find products of the picture's shape, and the activations that they read, by their first outputs' names."""
    waiting = [n for n in graph if n.op_type in _PRODUCTS and tuple(n.outputs[0].shape or ()) == picture]
    while waiting:
        node = waiting.pop()
        yield node.outputs[0].name or ""
        producers = [value.producer() for value in node.inputs if value is not None]
        waiting += [p for p in producers if p is not None and p.op_type in _ACTIVATIONS]


def _note_types(node: ir.Node, types: dict[ir.Value, ir.DataType]) -> None:
    for output in node.outputs:
        if output.dtype is not None:
            types[output] = output.dtype


def _convert(node: ir.Node, kind: ir.DataType, state: _Conversion, initializers: set[ir.Value]) -> None:
    for index, value in list(_float_inputs(node, state)):
        if value in initializers:
            if kind is state.half:
                node.replace_input_with(index, _half_weight(value, state))
        elif state.types[value] != kind:
            node.replace_input_with(index, _cast(value, kind, state))
    for output in node.outputs:
        # Behind one of the runtime's own operators nobody has told the types.
        unknown = output.dtype is None and node.op_type in state.compute | MOVEMENT
        if output.dtype in (FLOAT, state.half) or unknown:
            output.dtype = kind
            state.types[output] = kind
        elif output.dtype is not None:
            state.types[output] = output.dtype


def _cast(value: ir.Value, kind: ir.DataType, state: _Conversion) -> ir.Value:
    """One cast per value and type, right behind the producer."""
    if (value, kind) not in state.casts:
        suffix = "half" if kind is state.half else "float"
        node = ir.node("Cast", [value], {"to": kind}, name=f"{value.name}_to_{suffix}")
        node.outputs[0].name = f"{value.name}_{suffix}"
        node.outputs[0].shape = value.shape
        node.outputs[0].dtype = kind
        producer = value.producer()
        if producer is None:
            state.graph.insert_before(state.graph[0], node)
        else:
            state.graph.insert_after(producer, node)
        state.casts[value, kind] = node.outputs[0]
        state.types[node.outputs[0]] = kind
    return state.casts[value, kind]


def _half_weight(value: ir.Value, state: _Conversion) -> ir.Value:
    if value not in state.weights:
        assert value.const_value is not None
        numbers = value.const_value.numpy()
        halves, flushed = round_to_normal_half(numbers) if state.half is HALF else (round_to_bfloat16(numbers), 0)
        largest = float(np.abs(halves).max(initial=0.0))
        if not largest <= LARGEST and state.half is HALF:
            raise BackendError(f"fp16: constant {value.name} goes beyond float16's {LARGEST:g}; export in fp32")
        state.largest = max(state.largest, largest)
        state.flushed += flushed
        half = ir.Value(
            name=f"{value.name}_half",
            shape=value.shape,
            type=ir.TensorType(state.half),
            const_value=_stored(value.const_value, halves, state.half),
        )
        state.graph.register_initializer(half)
        state.types[half] = state.half
        state.weights[value] = half
    return state.weights[value]


def _stored(wide: ir.TensorProtocol, halves: npt.NDArray[Any], kind: ir.DataType) -> ir.TensorProtocol:
    """Hold rounded numbers; of a large weight only what makes them again for writing: all of SDXL's take 6.4 GB."""
    if halves.nbytes < _AGAIN:
        return ir.Tensor(halves, dtype=kind)

    def again() -> ir.TensorProtocol:
        numbers = wide.numpy()
        return ir.Tensor(round_to_normal_half(numbers)[0] if kind is HALF else round_to_bfloat16(numbers), dtype=kind)

    return ir.LazyTensor(again, dtype=kind, shape=ir.Shape(halves.shape))


def round_to_normal_half(numbers: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float16], int]:
    """Nearest float16 that is zero or normal, and how many numbers would have been subnormal."""
    # torch converts 296 M numbers on all cores in 0.1 s; numpy takes 2 s on one.
    # It warns about read-only arrays, which is what weights read from a file are.
    writable = np.require(np.atleast_1d(numbers), requirements="W")
    halves = torch.from_numpy(writable).half().numpy().reshape(numbers.shape)
    bits = halves.view(np.uint16) & 0x7FFF
    subnormal = (bits > 0) & (bits < 0x0400)
    count = int(np.count_nonzero(subnormal))
    if count:
        tiny = numbers[subnormal]
        halves[subnormal] = np.where(np.abs(tiny) < SMALLEST_NORMAL / 2, 0.0, np.copysign(SMALLEST_NORMAL, tiny))
    return halves, count


def round_to_bfloat16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Nearest bfloat16, as an array of ml_dtypes' type."""
    writable = np.require(np.atleast_1d(numbers), requirements="W")
    bits = torch.from_numpy(writable).bfloat16().view(torch.int16).numpy()
    result: npt.NDArray[Any] = bits.view(ml_dtypes.bfloat16).reshape(numbers.shape)
    return result


def _restore_outputs(state: _Conversion) -> None:
    for index, output in enumerate(state.graph.outputs):
        if state.types.get(output) is state.half:
            wide = _cast(output, FLOAT, state)
            wide.name, output.name = output.name, f"{output.name}_half"
            state.graph.outputs[index] = wide
