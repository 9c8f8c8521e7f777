"""Compressed weights, expanded when the program is loaded.

Two families share three names: iOS 16's keep packed bytes and a shape in attributes, iOS 18's have sub-byte tensors as
inputs, blocks and groups. Each expression is evaluated in float32 and rounded to the declared type once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cmexport.targets.coreml.executor.blobs import packed_bytes, unpack
from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction

_PALETTES = {2: "uint1", 4: "uint2", 8: "uint3", 16: "uint4", 64: "uint6", 256: "uint8"}
"""Index type by the number of entries in a table."""


def blocks(parameter: Tensor, shape: Sequence[int]) -> Tensor:
    """A parameter with one element per block, repeated to the shape of the data.

    Args:
        parameter: of the same rank; each extent divides the data's.
        shape: of the data.
    """
    if parameter.dim() != len(shape) or any(n < 1 or s % n for n, s in zip(parameter.shape, shape, strict=True)):
        raise BadCall(f"parameters of {list(parameter.shape)} don't divide data of {list(shape)}")
    for axis, (n, s) in enumerate(zip(parameter.shape, shape, strict=True)):
        # Extents of one broadcast: most scales have only one axis that doesn't.
        if n not in (1, s):
            parameter = parameter.repeat_interleave(s // n, axis)
    return parameter


def _whole(x: Tensor) -> Tensor:
    """Integers as float32, which holds all of eight bits exactly."""
    return x.float()


def _unpacked(call: Call, name: str, dtype: str, shape: Sequence[int]) -> Tensor:
    """Packed bytes of iOS 16 as small integers of a shape."""
    packed, elements = call.stored(name), math.prod(shape)
    if packed.numel() != packed_bytes(dtype, elements):
        raise BadCall(f"parameter '{name}' has {packed.numel()} bytes for {elements} elements of {dtype}")
    return torch.from_numpy(np.array(unpack(packed.numpy().astype(np.uint8), dtype, elements))).reshape(*shape)


def _affine_dequantize(call: Call) -> Tensor:
    """(data - zero point) * scale, per tensor or along one axis."""
    data = _whole(call.stored("quantized_data"))
    axis = call.axis("axis", data.dim())
    shape = [-1 if i == axis else 1 for i in range(data.dim())]
    scale, zero = call.tensor("scale"), _whole(call.stored("zero_point"))
    scale, zero = (p.reshape(shape) if p.dim() else p for p in (scale, zero))
    return (data - zero) * scale


def _cast(call: Call) -> Tensor:
    call.choice("output_dtype", ("fp32",))
    return call.tensor("source_val")


def _lut_to_dense(call: Call) -> Tensor:
    lut = call.tensor("lut")
    if call.has("shape"):
        shape = call.integers("shape")
        call.promise(shape)
        if lut.dim() != 1 or lut.numel() not in _PALETTES:
            raise BadCall(f"a table of {list(lut.shape)} entries can't be indexed")
        return lut[_unpacked(call, "indices", _PALETTES[lut.numel()], shape).long()]
    return _looked_up(call, call.stored("indices"), lut)


def _looked_up(call: Call, indices: Tensor, lut: Tensor) -> Tensor:
    """As iOS 18 does: lut is (*groups, entries, vector); groups divide the indices, vectors lengthen `vector_axis`."""
    *groups, entries, vector = lut.shape
    if len(groups) != indices.dim() or (indices.numel() and int(indices.max()) >= entries):
        raise BadCall(f"a table of {list(lut.shape)} doesn't fit indices of {list(indices.shape)}")
    axis = call.axis("vector_axis", indices.dim()) if vector != 1 else 0
    call.promise([n * vector if i == axis else n for i, n in enumerate(indices.shape)])
    ordinals = torch.arange(math.prod(groups)).reshape(groups)
    table = blocks(ordinals, indices.shape) * entries + indices.long()
    found = lut.reshape(-1, vector)[table]
    if vector == 1:
        return found.squeeze(-1)
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _dense(data: Tensor, mask: Tensor) -> Tensor:
    """Zeros with the data, in order, where the mask is set."""
    where = mask != 0
    if data.dim() != 1 or int(where.sum()) != data.numel():
        raise BadCall(f"{data.numel()} values don't fit a mask with {int(where.sum())} places")
    return torch.zeros(mask.shape, dtype=data.dtype).masked_scatter(where, data)


def _sparse_to_dense(call: Call) -> Tensor:
    data = call.stored("nonzero_data")
    if not call.has("shape"):
        return _dense(data, call.stored("mask"))
    shape = call.integers("shape")
    call.promise(shape)
    return _dense(data, _unpacked(call, "mask", "uint1", shape))


def _blockwise(call: Call, data: Tensor) -> Tensor:
    """(data - offset) * scale, one scale and offset per block."""
    scale, offset = blocks(call.tensor("scale"), data.shape), call.optional("offset")
    data = _whole(data)
    return (data if offset is None else data - blocks(_whole(offset), data.shape)) * scale


def _blockwise_shift_scale(call: Call) -> Tensor:
    return _blockwise(call, call.stored("data"))


def _sparse_blockwise_shift_scale(call: Call) -> tuple[Tensor, Tensor]:
    mask = call.stored("data_mask")
    dense = _blockwise(call, _dense(call.stored("nonzero_data"), mask))
    return mask, dense[mask != 0]


def _lut_to_sparse(call: Call) -> tuple[Tensor, Tensor]:
    """The mask, lengthened as the data is, and the looked-up values of its places in order."""
    mask, lut = call.stored("indices_mask"), call.tensor("lut")
    dense = _looked_up(call, _dense(call.stored("indices_nonzero_data"), mask), lut)
    if lut.shape[-1] > 1:
        mask = mask.repeat_interleave(lut.shape[-1], call.axis("vector_axis", mask.dim()))
    return mask, dense[mask != 0]


OPERATIONS: dict[str, OpFunction] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
