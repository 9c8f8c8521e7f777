"""Reductions over axes; all axes by default."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.modes import Arithmetic
from cmexport.targets.coreml.executor.ops.calling import Call, OpFunction


def _over_axes(function: Callable[[Arithmetic, Tensor, list[int], bool], Tensor]) -> OpFunction:
    def run(call: Call) -> Tensor:
        x = call.tensor("x")
        axes = call.axes("axes", x.dim(), range(x.dim()))
        return function(call.arithmetic, x, axes, call.flag("keep_dims"))

    return run


def _mean(arithmetic: Arithmetic, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return arithmetic.mean(x if x.is_floating_point() else x.double(), axes, keep)


def _sum_square(arithmetic: Arithmetic, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return arithmetic.sum(arithmetic.round(x * x) if x.is_floating_point() else x * x, axes, keep)


def _log_sum_exp(arithmetic: Arithmetic, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    x = x if x.is_floating_point() else x.double()
    if not arithmetic.half:
        return torch.logsumexp(x, axes, keep)
    largest = x.amax(axes, keepdim=True)
    total = arithmetic.sum(arithmetic.round(torch.exp(arithmetic.round(x - largest))), axes, keep)
    return arithmetic.round(torch.log(total)) + (largest if keep else largest.reshape(total.shape))


def _product(_: Arithmetic, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _real(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


def _argument(function: Callable[[Tensor, int, bool], Tensor]) -> OpFunction:
    def run(call: Call) -> Tensor:
        x = call.tensor("x")
        return function(x, call.axis("axis", x.dim(), -1), call.flag("keep_dims"))

    return run


OPERATIONS: dict[str, OpFunction] = {
    "reduce_argmax": _argument(torch.argmax),
    "reduce_argmin": _argument(torch.argmin),
    "reduce_l1_norm": _over_axes(lambda a, x, axes, keep: a.sum(x.abs(), axes, keep)),
    "reduce_l2_norm": _over_axes(lambda a, x, axes, keep: torch.sqrt(_real(_sum_square(a, x, axes, keep)))),
    "reduce_log_sum": _over_axes(lambda a, x, axes, keep: torch.log(_real(a.sum(x, axes, keep)))),
    "reduce_log_sum_exp": _over_axes(_log_sum_exp),
    "reduce_max": _over_axes(lambda _, x, axes, keep: x.amax(axes, keep)),
    "reduce_mean": _over_axes(_mean),
    "reduce_min": _over_axes(lambda _, x, axes, keep: x.amin(axes, keep)),
    "reduce_prod": _over_axes(_product),
    "reduce_sum": _over_axes(lambda a, x, axes, keep: a.sum(x, axes, keep)),
    "reduce_sum_square": _over_axes(_sum_square),
}
