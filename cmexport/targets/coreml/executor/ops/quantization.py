"""Activations in eight bits (iOS 17)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import Call, OpFunction
from cmexport.targets.coreml.executor.values import RANGES


def _parameters(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point as float32, shaped for x: scalars, or vectors along `axis`."""
    scale = call.tensor("scale")
    zero = call.tensor("zero_point").float() if call.has("zero_point") else torch.zeros(())
    axis = call.axis("axis", x.dim()) if call.has("axis") else 0
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    return scale.reshape(shape) if scale.dim() else scale, zero.reshape(shape) if zero.dim() else zero


def _quantize(call: Call) -> Tensor:
    """clamp(round(x / scale) + zero point), halves to the even neighbour."""
    x = call.tensor("input")
    scale, zero = _parameters(call, x)
    low, high = RANGES[call.choice("output_dtype", ("int8", "uint8", "int4", "uint4"))]
    return torch.clamp(torch.round(x / scale) + zero, low, high)


def _dequantize(call: Call) -> Tensor:
    """(x - zero point) * scale."""
    x = call.stored("input").float()
    scale, zero = _parameters(call, x)
    return (x - zero) * scale


OPERATIONS: dict[str, OpFunction] = {"dequantize": _dequantize, "quantize": _quantize}
