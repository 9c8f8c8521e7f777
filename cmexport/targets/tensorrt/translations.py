"""How operators are spelled for TensorRT: plain ONNX at opset 21, where group normalization is one operator.

Measured on the demo model in float16 with TensorRT for RTX 1.7.1, against the spelling of opset 20
(InstanceNormalization on reshaped rows, BatchNormalization): 739 network layers instead of 1394, 22.9 MB instead of
26.0, and normalization and SiLU fused into one kernel, with the statistics in float32 inside it. ONNX Runtime has no
kernel for it on the CPU and computes its definition, which takes float32 for the statistics too.

Attention stays two matrix products around a softmax: in float16, bfloat16 and float8 the builder finds and fuses those
by itself (`_gemm_mha_v2`), while opset 23's Attention operator is refused in float32 ("not supported by a dedicated
kernel") and gives the same engine in float16.
"""

from __future__ import annotations

from typing import Any

from onnxscript import opset21 as op

from cmexport.onnxfile.translations import Translations, aten, standard_translations

OPSET = 21


def group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """GroupNormalization-21; scale and bias are constants of ones and zeros where a rewrite has folded them away."""
    del cudnn_enabled
    channels = int(input.shape[1])
    weight = op.Constant(value_floats=[1.0] * channels) if weight is None else weight
    bias = op.Constant(value_floats=[0.0] * channels) if bias is None else bias
    return op.GroupNormalization(input, weight, bias, epsilon=eps, num_groups=num_groups)


def tensorrt_translations() -> Translations:
    """The standard spellings, but for group normalization."""
    return {**standard_translations(), aten.group_norm.default: group_norm}
