"""Norms. In half precision every step is stored: the squared deviation overflows above 256."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction
from cmexport.targets.coreml.executor.ops.windows import pad_spatial


def _standardized(call: Call, name: str, axes: Sequence[int]) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, in a tensor of its own; float16 where steps are rounded.

    Differences and products of halves are computed by torch in float32 and rounded once: a step, as `round` has it.
    """
    arithmetic, x = call.arithmetic, call.tensor(name)
    mean = arithmetic.mean(x, axes, keepdim=True)
    if not arithmetic.half or call.stored(name).dtype != torch.float16:
        centered = arithmetic.round(x - mean)
        variance = arithmetic.mean(arithmetic.round(centered * centered), axes, keepdim=True)
        return arithmetic.round(centered.mul_(_inverse(call, variance)))
    centered = arithmetic.narrow(call.stored(name) - mean.half())
    variance = arithmetic.mean(arithmetic.narrow(centered * centered).float(), axes, keepdim=True)
    return arithmetic.narrow(centered.mul_(_inverse(call, variance).half()))


def _inverse(call: Call, variance: Tensor) -> Tensor:
    arithmetic = call.arithmetic
    return arithmetic.round(torch.rsqrt(arithmetic.round(variance + call.real("epsilon", 1e-5))))


def _affine(call: Call, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Multiply by gamma and add beta, both reshaped to `shape`; x is changed where its type allows it."""
    read = call.stored if x.dtype == torch.float16 else call.tensor
    if call.has("gamma"):
        gamma = read("gamma").reshape(*shape)
        x = call.arithmetic.narrow(x.mul_(gamma) if gamma.dtype == x.dtype else x * gamma).to(x.dtype)
    if not call.has("beta"):
        return x
    beta = read("beta").reshape(*shape)
    return x.add_(beta) if beta.dtype == x.dtype else x + beta


def _along_channels(x: Tensor) -> list[int]:
    return [1, -1, *[1] * (x.dim() - 2)]


def _layer_norm(call: Call) -> Tensor:
    x = call.stored("x")
    axes = call.axes("axes", x.dim(), range(x.dim()))
    return _affine(call, _standardized(call, "x", axes), [n if i in axes else 1 for i, n in enumerate(x.shape)])


def _instance_norm(call: Call) -> Tensor:
    x = call.stored("x")
    return _affine(call, _standardized(call, "x", range(2, x.dim())), _along_channels(x))


def _batch_norm(call: Call) -> Tensor:
    """Its four vectors are constant: they become one scale and one offset when the program is compiled."""
    x = call.tensor("x")
    gamma, beta = call.optional("gamma"), call.optional("beta")
    scale = torch.rsqrt(call.tensor("variance") + call.real("epsilon", 1e-5))
    scale = scale if gamma is None else scale * gamma
    offset = -call.tensor("mean") * scale
    offset = offset if beta is None else offset + beta
    arithmetic, shape = call.arithmetic, _along_channels(x)
    return arithmetic.round(x * arithmetic.round(scale).reshape(shape)) + arithmetic.round(offset).reshape(shape)


def _l2_norm(call: Call) -> Tensor:
    """Over the last three axes, whatever the rank."""
    x, arithmetic = call.tensor("x"), call.arithmetic
    if x.dim() < 3:
        raise BadCall(f"x has rank {x.dim()}, and three axes are normalized")
    total = arithmetic.sum(arithmetic.round(x * x), [-3, -2, -1], keepdim=True)
    return x * arithmetic.round(torch.rsqrt(arithmetic.round(total + call.real("epsilon", 1e-6))))


def _local_response_norm(call: Call) -> Tensor:
    """Compute x / (k + alpha / size * sum of squares of `size` neighbouring channels) ^ beta."""
    x, arithmetic, size = call.tensor("x"), call.arithmetic, call.integer("size")
    if not 1 <= size <= 2 * x.shape[1]:
        raise BadCall(f"size is {size}, with {x.shape[1]} channels")
    squares = arithmetic.round(x * x).movedim(1, -1)
    neighbours = pad_spatial(squares, [(size // 2, (size - 1) // 2)]).unfold(-1, size, 1)
    total = arithmetic.sum(neighbours, [-1], scale=call.real("alpha", 1e-4) / size).movedim(-1, 1)
    return x / arithmetic.round((call.real("k", 1.0) + total) ** call.real("beta", 0.75))


OPERATIONS: dict[str, OpFunction] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
