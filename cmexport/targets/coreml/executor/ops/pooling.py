"""Pools, all on one view of the input: (N, C, outputs…, kernel…)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction
from cmexport.targets.coreml.executor.ops.windows import pad_spatial, padding


def _windows(call: Call, x: Tensor, fill: float) -> tuple[Tensor, Tensor]:
    """Windows of x, and of ones where a cell counts in an average (broadcasting over N and C)."""
    axes = x.dim() - 2
    kernel = call.integers("kernel_sizes")
    strides = call.integers("strides", [1] * axes)
    sizes = list(x.shape[2:])
    pads = padding(call, sizes, kernel, strides, [1] * axes)
    ceil = call.flag("ceil_mode")
    outputs, extra = [], []
    for size, extent, stride, pad in zip(sizes, kernel, strides, pads, strict=True):
        padded = size + sum(pad)
        count = (padded - extent + (stride - 1 if ceil else 0)) // stride + 1
        # A window that begins in the padding after the input is dropped, as in PyTorch.
        if ceil and sum(pad) > 0 and (count - 1) * stride >= size + pad[0]:
            count -= 1
        outputs.append(count)
        extra.append((0, max(0, (count - 1) * stride + extent - padded)))
    call.promise([*x.shape[:2], *outputs])
    if min(outputs) < 1:
        raise BadCall(f"a window of {kernel} is larger than its input of {sizes}")
    counted = pad_spatial(x.new_ones(1, 1, *sizes), pads, 0.0 if call.flag("exclude_padding_from_average") else 1.0)
    x, counted = pad_spatial(pad_spatial(x, pads, fill), extra, fill), pad_spatial(counted, extra)
    for i, (extent, stride, count) in enumerate(zip(kernel, strides, outputs, strict=True)):
        x = x.unfold(2 + i, extent, stride).narrow(2 + i, 0, count)
        counted = counted.unfold(2 + i, extent, stride).narrow(2 + i, 0, count)
    return x, counted


def _kernel_axes(windows: Tensor) -> list[int]:
    axes = (windows.dim() - 2) // 2
    return list(range(2 + axes, 2 + 2 * axes))


def _max_pool(call: Call) -> Tensor:
    windows, _ = _windows(call, call.tensor("x"), -math.inf)
    return windows.amax(_kernel_axes(windows))


def _avg_pool(call: Call) -> Tensor:
    windows, counted = _windows(call, call.tensor("x"), 0.0)
    axes = _kernel_axes(windows)
    return call.arithmetic.sum(windows, axes, scale=1.0 / counted.sum(axes))


def _l2_pool(call: Call) -> Tensor:
    windows, _ = _windows(call, call.tensor("x"), 0.0)
    squares = call.arithmetic.round(windows * windows)
    return torch.sqrt(call.arithmetic.sum(squares, _kernel_axes(windows)))


OPERATIONS: dict[str, OpFunction] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
