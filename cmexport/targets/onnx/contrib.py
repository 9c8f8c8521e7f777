"""ONNX Runtime's contrib operators that the CPU form uses, as torch operators and as ONNX operators.

The torch side exists so that a graph holding them still runs, traces and can be measured against the graph before.
Source of the ONNX side: onnxruntime docs/ContribOperators.md (domain com.microsoft, version 1).
"""

from __future__ import annotations

from typing import Any

import onnxscript
import torch
import torch.nn.functional as F
from onnx.defs import OpSchema
from torch import Tensor

from cmexport.onnxfile.translations import Translations, aten, standard_translations

_DOMAIN = onnxscript.values.Opset("com.microsoft", 1)


@torch.library.custom_op("cmexport::packed_attention", mutates_args=())
def packed_attention(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Self-attention with a packed, already scaled projection.

    Args:
        x: (N, T, C) tokens.
        weight: (C, 3 C), columns q, k, v with heads contiguous inside each.
        bias: (3 C,).
        heads: number of heads.

    Returns:
        (N, T, C), before the output projection.
    """
    n, tokens, channels = x.shape
    qkv = (x @ weight + bias).reshape(n, tokens, 3 * heads, channels // heads).transpose(1, 2)
    q, k, v = qkv.chunk(3, dim=1)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return mixed.transpose(1, 2).reshape(n, tokens, channels).contiguous()


@packed_attention.register_fake
def _packed_attention_shape(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    del weight, bias, heads
    return torch.empty_like(x)


def _operator(name: str, inputs: tuple[str, ...], attributes: dict[str, OpSchema.AttrType]) -> onnxscript.values.Op:
    parameter = OpSchema.FormalParameter
    schema = OpSchema(
        name,
        "com.microsoft",
        1,
        inputs=[parameter(i, "T") for i in inputs],
        outputs=[parameter("output", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[OpSchema.Attribute(k, kind, "", required=False) for k, kind in attributes.items()],
    )
    return onnxscript.values.Op(_DOMAIN, name, schema)


# x * sigmoid(alpha x); alpha 1 is SiLU. ONNX has no such operator before opset 24.
QUICK_GELU = _operator("QuickGelu", ("X",), {"alpha": OpSchema.AttrType.FLOAT})
ATTENTION = _operator(
    "Attention", ("input", "weights", "bias"), {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT}
)


def _quick_gelu(self: Any) -> Any:
    return QUICK_GELU(self, alpha=1.0)


def _packed_attention(x: Any, weight: Any, bias: Any, heads: int) -> Any:
    return ATTENTION(x, weight, bias, num_heads=heads, scale=1.0)


def contrib_translations() -> Translations:
    """Spellings with these operators where they save nodes or time, else those in plain ONNX."""
    return {
        **standard_translations(),
        aten.silu.default: _quick_gelu,
        torch.ops.cmexport.packed_attention.default: _packed_attention,
    }
