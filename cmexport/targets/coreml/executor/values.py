"""Constants of a program as torch tensors, strings and lists of strings."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmexport.targets.coreml.executor.blobs import BITS, packed_bytes, unpack
from cmexport.targets.coreml.executor.program import UNKNOWN, Constant, Immediate, TensorType

Value: TypeAlias = Tensor | str | tuple[str, ...]

TORCH_TYPES: dict[str, torch.dtype] = {
    "bool": torch.bool,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint1": torch.uint8,
    "uint2": torch.uint8,
    "uint3": torch.uint8,
    "uint4": torch.uint8,
    "uint6": torch.uint8,
    "uint8": torch.uint8,
    "uint16": torch.int32,
    "uint32": torch.int64,
    "uint64": torch.int64,
}
"""How each declared type is held: torch has few operators for uint16 … uint64 and none below eight bits."""

RANGES = {"int4": (-8, 7), "int8": (-128, 127), "uint4": (0, 15), "uint8": (0, 255), "int16": (-32768, 32767)} | {
    "uint16": (0, 65535)
}
"""Smallest and largest number of the types that values are clamped to."""

_FIELDS = {
    "floats": np.float32,
    "ints": np.int32,
    "bools": np.bool_,
    "longInts": np.int64,
    "doubles": np.float64,
}


class Malformed(Exception):  # noqa: N818 - never leaves the package: `read_program` makes a CheckpointError of it
    """Something in a specification that can't be: the message says what, without the file."""


def immediate(value: Any, kind: TensorType, where: str) -> Immediate:
    """A constant written into the specification.

    Args:
        value: a `MILSpec.Value.ImmediateValue`.
        kind: its declared type.
        where: the operation it belongs to, for messages.

    Raises:
        Malformed: its elements don't match the declared type and shape.
    """
    if kind.is_dynamic:
        raise Malformed(f"{where} has a constant of unknown shape")
    source = value.WhichOneof("value")
    if source == "list":
        return _list(value.list, kind, where)
    if source != "tensor":
        raise Malformed(f"{where} has a constant of kind {source or 'none'}, which this executor can't hold")
    field = value.tensor.WhichOneof("value")
    elements = math.prod(kind.shape)
    if field is None and elements == 0:
        return Immediate(kind, np.zeros(kind.shape, _numpy_type(kind.dtype)))
    if kind.dtype == "string" or field == "strings":
        if kind.dtype != "string" or field != "strings" or len(value.tensor.strings.values) != elements:
            raise Malformed(f"{where} has strings that don't match their type {kind}")
        return Immediate(kind, tuple(value.tensor.strings.values))
    if field == "bytes":
        data = np.frombuffer(value.tensor.bytes.values, np.uint8)
        if data.size != packed_bytes(kind.dtype, elements):
            raise Malformed(f"{where} has {data.size} bytes of data for a constant of type {kind}")
        return Immediate(kind, unpack(data, kind.dtype, elements).reshape(kind.shape))
    if field not in _FIELDS:
        raise Malformed(f"{where} has a constant without a value")
    numbers: npt.NDArray[np.generic] = np.array(getattr(value.tensor, field).values, dtype=_FIELDS[field])
    if numbers.size != elements:
        raise Malformed(f"{where} has {numbers.size} numbers for a constant of type {kind}")
    with np.errstate(all="ignore"):
        return Immediate(kind, numbers.reshape(kind.shape).astype(_numpy_type(kind.dtype)))


def _list(value: Any, kind: TensorType, where: str) -> Immediate:
    """A list of scalars: one string or number per element."""
    if kind.shape != (len(value.values),):
        raise Malformed(f"{where} has a list of {len(value.values)} values of type {kind}")
    items = [immediate(v.immediateValue, TensorType(kind.dtype, ()), where) for v in value.values]
    if kind.dtype == "string":
        return Immediate(kind, tuple(str(item.data[0]) for item in items))
    return Immediate(kind, np.array([item.data for item in items], _numpy_type(kind.dtype)))


def _numpy_type(dtype: str) -> np.dtype[Any]:
    if BITS[dtype] < 8:
        return np.dtype(np.int8 if dtype == "int4" else np.uint8)
    return np.dtype(np.float32 if dtype == "bfloat16" else dtype)


def load(constant: Constant) -> Value:
    """A constant as the interpreter holds it: `TORCH_TYPES` for numbers, str or a tuple of str for text.

    Raises:
        CheckpointError: the weights file has changed since the program was read.
    """
    kind = constant.type
    if isinstance(constant, Immediate):
        data = constant.data
        if isinstance(data, tuple):
            return data[0] if kind.shape == () else data
    else:
        data = constant.file.read(constant.offset, kind.dtype, math.prod(kind.shape)).reshape(kind.shape)
    target = TORCH_TYPES[kind.dtype]
    if kind.dtype.startswith("uint") and BITS[kind.dtype] > 8:
        data = data.astype(np.int32 if target == torch.int32 else np.int64)
    # The copy also detaches the tensor from the mapped file, so that this may be replaced while the program lives.
    owned = np.array(data, dtype=data.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(owned).to(target)


def numpy_input_type(dtype: str) -> str:
    """The numpy type an input of a declared type is given in."""
    return "int8" if dtype == "int4" else "uint8" if BITS.get(dtype, 8) < 8 else dtype


def matches(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Whether a shape is the declared one, unknown extents aside."""
    return len(shape) == len(declared) and all(d in (s, UNKNOWN) for s, d in zip(shape, declared, strict=True))
