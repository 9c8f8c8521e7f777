"""The fused attention of iOS 18."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.activation import softmax
from cmexport.targets.coreml.executor.ops.calling import Call, OpFunction
from cmexport.targets.coreml.executor.ops.linear import product


def _attention(call: Call) -> Tensor:
    """softmax(q k^T / sqrt(E) + mask) v; false in a boolean mask means minus infinity."""
    query, key, value = call.tensor("query"), call.tensor("key"), call.tensor("value")
    arithmetic = call.arithmetic
    # Scaling the query first keeps half-precision scores in range; fused kernels do the same.
    scores = product(call, arithmetic.round(query / math.sqrt(query.shape[-1])), key.mT).float()
    mask = call.optional("attn_mask")
    if mask is not None:
        added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        scores = arithmetic.round(scores + added)
    return product(call, softmax(call, scores, -1), value)


OPERATIONS: dict[str, OpFunction] = {"scaled_dot_product_attention": _attention}
