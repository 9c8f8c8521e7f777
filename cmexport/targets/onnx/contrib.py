"""ONNX Runtime's contrib operators that the CPU form uses, as torch operators and as ONNX operators.

The torch side exists so that a graph holding them still runs, traces and can be measured against the graph before.
Source of the ONNX side: onnxruntime docs/ContribOperators.md (domain com.microsoft, version 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnxscript
import torch
import torch.nn.functional as F
from onnx.defs import OpSchema
from onnxscript import opset20 as op
from torch import Tensor, fx

from cmexport.graph.ranges import largest_logit, look_inside
from cmexport.onnxfile.translations import Translations, aten, scaled_dot_product_attention, standard_translations

LARGE_LOGITS = 32_000_000
"""Bytes of float32 logits from which on attention is MultiHeadAttention, which makes them block by block and never
holds them all. 8 heads over 4,096 tokens (537 MB; Stable Diffusion's network at 512 x 512 pixels) take 26 MB in place
of 560 and 0.71 of the time, over 1,024 (34 MB) 14 in place of 40 and 0.85; one head of 512 over 4,096 (its decoder) 41
in place of 91 and 0.90, over 16,384 (at 1024 x 1024) 166 in place of 1,189 and 0.96. One over 1,024 gains nothing."""

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


def _largest_packed_logit(node: fx.Node, given: tuple[Any, ...]) -> float:
    del node
    x, weight, bias, heads = given
    q, k, _ = ((x @ weight + bias).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)).unbind(0)
    return largest_logit(q, k, 1.0)


look_inside(torch.ops.cmexport.packed_attention.default, _largest_packed_logit)
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


@torch.library.custom_op("cmexport::interleave", mutates_args=())
def interleave(phases: Sequence[Tensor]) -> Tensor:
    """Put four pictures together: even and odd rows, each with even and odd columns.

    Args:
        phases: four tensors (N, C, H, W), in this order.

    Returns:
        (N, C, 2 H, 2 W).
    """
    rows = [torch.stack(tuple(phases[i : i + 2]), dim=-1).flatten(-2) for i in (0, 2)]
    return torch.stack(rows, dim=-2).flatten(-3, -2)


@interleave.register_fake
def _interleave_shape(phases: Sequence[Tensor]) -> Tensor:
    n, c, height, width = phases[0].shape
    return phases[0].new_empty((n, c, 2 * height, 2 * width))


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
MULTI_HEAD = contrib_operator(
    "MultiHeadAttention",
    {"query": "T", "key": "T", "value": "T"},
    _FLOATS,
    {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT},
)


def has_large_logits(query: Sequence[int], key: Sequence[int]) -> bool:
    """Whether an attention's logits are too many to be kept together, by the shapes (N, heads, tokens, width)."""
    return 4 * math.prod(query[:3]) * key[2] > LARGE_LOGITS


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """MultiHeadAttention over (N, tokens, heads x width) where the logits are many, else two products."""
    batch, heads, tokens, width = (int(d) for d in query.shape)
    plain = attn_mask is None and not dropout_p and not is_causal and not enable_gqa and int(value.shape[-1]) == width
    if not plain or not has_large_logits((batch, heads, tokens, width), [int(d) for d in key.shape]):
        return scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    rows: Any = op.Constant(value_ints=[batch, -1, heads * width])
    q, k, v = (op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), rows) for x in (query, key, value))
    mixed = MULTI_HEAD(q, k, v, num_heads=heads, scale=width**-0.5 if scale is None else scale)
    apart: Any = op.Constant(value_ints=[batch, tokens, heads, width])
    return op.Transpose(op.Reshape(mixed, apart), perm=[0, 2, 1, 3])


def _quick_gelu(self: Any) -> Any:
    return QUICK_GELU(self, alpha=1.0)


def _packed_attention(x: Any, weight: Any, bias: Any, heads: int) -> Any:
    return ATTENTION(x, weight, bias, num_heads=heads, scale=1.0)


def _interleave(phases: Sequence[Any]) -> Any:
    return op.DepthToSpace(op.Concat(*phases, axis=1), blocksize=2, mode="DCR")


def contrib_translations() -> Translations:
    """Spellings with these operators where they save nodes or time, else those in plain ONNX."""
    return {
        **standard_translations(),
        aten.silu.default: _quick_gelu,
        aten.scaled_dot_product_attention.default: _attention,
        torch.ops.cmexport.packed_attention.default: _packed_attention,
        torch.ops.cmexport.interleave.default: _interleave,
    }
