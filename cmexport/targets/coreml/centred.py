"""Centred layers in operators that coremltools reads: quantize and dequantize around the input, codes with scales."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.quantize.centred.operators import HIGHEST, LOWEST


def centred_decompositions() -> Mapping[Callable[..., Any], Callable[..., Tensor]]:
    """For `ExportedProgram.run_decompositions`; the weight's becomes a `constexpr` of the deployment target."""
    # Registers the operators that torch's own quantizer writes and every exporter reads.
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    ops = torch.ops.quantized_decomposed
    codes_of = (LOWEST, HIGHEST, torch.int8)

    def pair(x: Tensor, factor: Tensor, shift: Tensor, scale: float) -> Tensor:
        read = ops.quantize_per_tensor.default(x * factor + shift, scale, 0, *codes_of)
        result: Tensor = ops.dequantize_per_tensor.default(read, scale, 0, *codes_of)
        return result

    def stored(codes: Tensor, step: Tensor) -> Tensor:
        zeros = torch.zeros_like(step, dtype=torch.int32)
        result: Tensor = ops.dequantize_per_channel.default(codes, step, zeros, 0, *codes_of)
        return result

    def convolution(
        x: Tensor,
        factor: Tensor,
        shift: Tensor,
        scale: float,
        codes: Tensor,
        step: Tensor,
        bias: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> Tensor:
        height, width = padding
        padded = F.pad(x, (width, width, height, height)) if height or width else x
        return F.conv2d(pair(padded, factor, shift, scale), stored(codes, step), bias, list(stride))

    def linear(
        x: Tensor, factor: Tensor, shift: Tensor, scale: float, codes: Tensor, step: Tensor, bias: Tensor
    ) -> Tensor:
        return F.linear(pair(x, factor, shift, scale), stored(codes.t(), step), bias)

    centred = torch.ops.cmexport
    return {centred.centred_convolution.default: convolution, centred.centred_linear.default: linear}
