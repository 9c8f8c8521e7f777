"""Activations. Each is computed as a whole and rounded once, in every mode; softmax sums and does round on the way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import Call, OpFunction


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A scalar, or a vector along axis 1 of x."""
    return parameter if parameter.dim() == 0 else parameter.reshape(1, -1, *[1] * (x.dim() - 2))


def _clamped_relu(call: Call) -> Tensor:
    x, alpha, beta = call.tensor("x"), call.real("alpha"), call.real("beta")
    return torch.clamp(torch.where(x >= 0, x, x * alpha), max=beta)


def _gelu(call: Call) -> Tensor:
    modes = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    mode, x = call.choice("mode", modes, "EXACT"), call.tensor("x")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor("x"), call.real("alpha"))


def _linear_activation(call: Call) -> Tensor:
    return call.tensor("x") * call.real("alpha") + call.real("beta")


def _prelu(call: Call) -> Tensor:
    x = call.tensor("x")
    return torch.where(x >= 0, x, x * _per_channel(call.tensor("alpha"), x))


def _sigmoid_hard(call: Call) -> Tensor:
    return torch.clamp(call.tensor("x") * call.real("alpha") + call.real("beta"), 0, 1)


def _softplus_parametric(call: Call) -> Tensor:
    x = call.tensor("x")
    scaled = x * _per_channel(call.tensor("beta"), x)
    return _per_channel(call.tensor("alpha"), x) * torch.logaddexp(scaled, torch.zeros_like(scaled))


def softmax(call: Call, x: Tensor, axis: int) -> Tensor:
    """Softmax with the maximum subtracted first; exponentials, their sum and the quotient are rounded."""
    arithmetic = call.arithmetic
    if not arithmetic.half:
        return torch.softmax(x, axis)
    exponentials = arithmetic.round(torch.exp(arithmetic.round(x - x.amax(axis, keepdim=True))))
    return arithmetic.round(exponentials / arithmetic.sum(exponentials, [axis], keepdim=True))


def _softmax(call: Call) -> Tensor:
    x = call.tensor("x")
    return softmax(call, x, call.axis("axis", x.dim(), -1))


def _thresholded_relu(call: Call) -> Tensor:
    x = call.tensor("x")
    return torch.where(x >= call.real("alpha"), x, torch.zeros((), dtype=x.dtype))


OPERATIONS: dict[str, OpFunction] = {
    "clamped_relu": _clamped_relu,
    "elu": lambda call: F.elu(call.tensor("x"), call.real("alpha")),
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": _linear_activation,
    "prelu": _prelu,
    "relu": lambda call: torch.relu(call.tensor("x")),
    "relu6": lambda call: torch.clamp(call.tensor("x"), 0, 6),
    "scaled_tanh": lambda call: call.real("alpha") * torch.tanh(call.tensor("x") * call.real("beta")),
    "sigmoid": lambda call: torch.sigmoid(call.tensor("x")),
    "sigmoid_hard": _sigmoid_hard,
    "silu": lambda call: F.silu(call.tensor("x")),
    "softmax": _softmax,
    # F.softplus is linear above 20 and off by 2e-9 there: too little to see, but this is exact.
    "softplus": lambda call: torch.logaddexp(call.tensor("x"), torch.zeros(())),
    "softplus_parametric": _softplus_parametric,
    "softsign": lambda call: F.softsign(call.tensor("x")),
    "thresholded_relu": _thresholded_relu,
}
