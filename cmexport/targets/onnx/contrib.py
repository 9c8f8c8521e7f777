"""ONNX Runtime's contrib operators that the CPU form uses, as torch operators and as ONNX operators.

The torch side exists so that a graph holding them still runs, traces and can be measured against the graph before.
Source of the ONNX side: onnxruntime docs/ContribOperators.md (domain com.microsoft, version 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return _attend(x, weight, bias, heads)


def _attend(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    n, tokens, channels = x.shape
    qkv = (x @ weight + bias).reshape(n, tokens, 3 * heads, channels // heads).transpose(1, 2)
    q, k, v = qkv.chunk(3, dim=1)
    mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return mixed.transpose(1, 2).reshape(n, tokens, channels).contiguous()


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:3])
    ctx.heads = inputs[3]


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Computed again with torch's own derivatives: sensitivities need them, nothing trains here."""
    with torch.enable_grad():
        x, weight, bias = (t.detach().requires_grad_(True) for t in ctx.saved_tensors)
        result = _attend(x, weight, bias, ctx.heads)
    return (*torch.autograd.grad(result, (x, weight, bias), gradient), None)


packed_attention.register_autograd(_gradients, setup_context=_remember)


@packed_attention.register_fake
def _packed_attention_shape(x: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    del weight, bias, heads
    return torch.empty_like(x)


@packed_attention.register_vmap
def _packed_attention_together(
    info: Any, in_dims: Sequence[int | None], x: Tensor, weight: Tensor, bias: Tensor, heads: int
) -> tuple[Tensor, int]:
    """Inputs of several pictures with the weights they share."""
    along, *shared, _ = in_dims
    assert along is not None
    assert shared == [None, None]
    rows = packed_attention(x.movedim(along, 0).flatten(0, 1), weight, bias, heads)
    return rows.unflatten(0, (info.batch_size, -1)), 0


def contrib_operator(
    name: str,
    inputs: Mapping[str, str],
    types: Mapping[str, Sequence[str]],
    attributes: Mapping[str, OpSchema.AttrType],
    optional: Sequence[str] = (),
) -> onnxscript.values.Op:
    """An operator of ONNX Runtime's own domain with one output, of the first type.

    Args:
        name: of the operator.
        inputs: type variable of each input.
        types: element types of each type variable.
        attributes: kind of each attribute.
        optional: inputs that may be left out.
    """
    option = OpSchema.FormalParameterOption
    formal = [
        OpSchema.FormalParameter(i, t, param_option=option.Optional if i in optional else option.Single)
        for i, t in inputs.items()
    ]
    schema = OpSchema(
        name,
        "com.microsoft",
        1,
        inputs=formal,
        outputs=[OpSchema.FormalParameter("output", next(iter(types)))],
        type_constraints=[(t, [f"tensor({e})" for e in elements], "") for t, elements in types.items()],
        attributes=[OpSchema.Attribute(k, kind, "", required=False) for k, kind in attributes.items()],
    )
    return onnxscript.values.Op(_DOMAIN, name, schema)


_FLOATS = {"T": ("float", "float16")}
# x * sigmoid(alpha x); alpha 1 is SiLU. ONNX has no such operator before opset 24.
QUICK_GELU = contrib_operator("QuickGelu", {"X": "T"}, _FLOATS, {"alpha": OpSchema.AttrType.FLOAT})
ATTENTION = contrib_operator(
    "Attention",
    {"input": "T", "weights": "T", "bias": "T"},
    _FLOATS,
    {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT},
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
