"""Pictures of another size, one axis after the other.

Where samples lie is documented in coremltools' `resize_bilinear` and `upsample_bilinear`
(`mil/ops/defs/iOS15/image_resizing.py`); `_grid` holds those formulas.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, OpFunction

SAMPLING_MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def _grid(old: int, new: int, mode: str) -> Tensor:
    """Positions (new,) in 0 … old - 1 that are sampled along an axis, in float64."""
    i = torch.arange(new, dtype=torch.float64)
    if mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * (old / new) - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * (max(1, old - 1) / new)
    elif mode == "DEFAULT":
        # (old - old / new) / (new - 1), simplified.
        points = i * (old / new)
    elif new == 1:
        points = i + ((old - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0)
    else:
        points = i * ((old - 1) / (new - 1))
    return points.clamp(0, old - 1)


def _linear(x: Tensor, axis: int, new: int, mode: str) -> Tensor:
    old = x.shape[axis]
    points = _grid(old, new, mode)
    low = points.floor().long()
    high = (low + 1).clamp(max=old - 1)
    weight = (points - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.dim())])
    below, above = x.index_select(axis, low), x.index_select(axis, high)
    return below + (above - below) * weight


def _nearest(x: Tensor, axis: int, new: int, mode: str) -> Tensor:
    """The sample below under DEFAULT, which is i * old / new; the closest one otherwise, halves upwards."""
    points = _grid(x.shape[axis], new, mode)
    # Exact quotients can fall short by an ulp: 3 * (1 / 3) has to be 1.
    rounded = torch.floor(points + 1e-9) if mode == "DEFAULT" else torch.floor(points + 0.5)
    return x.index_select(axis, rounded.long().clamp(0, x.shape[axis] - 1))


def _scaled(call: Call, x: Tensor) -> tuple[int, int]:
    """Height and width after scaling, rounded down. Factors may be whole numbers or float32."""
    sizes = []
    for name, old in (("scale_factor_height", x.shape[-2]), ("scale_factor_width", x.shape[-1])):
        factor = call.real(name, 1.0)
        if not (factor > 0 and math.isfinite(factor)):
            raise BadCall(f"{name} is {factor}")
        sizes.append(math.floor(Fraction(factor) * old))
    call.promise([*x.shape[:-2], *sizes])
    return sizes[0], sizes[1]


def _target(call: Call, x: Tensor) -> tuple[int, int]:
    height, width = call.integer("target_size_height", 1), call.integer("target_size_width", 1)
    call.promise([*x.shape[:-2], height, width])
    if min(height, width) < 1:
        raise BadCall(f"its result would have no cells: {height} x {width}")
    return height, width


def _upsample_nearest_neighbor(call: Call) -> Tensor:
    x = call.stored("x")
    height, width = _scaled(call, x)
    return _nearest(_nearest(x, x.dim() - 2, height, "DEFAULT"), x.dim() - 1, width, "DEFAULT")


def _resize_nearest_neighbor(call: Call) -> Tensor:
    x = call.stored("x")
    height, width = _target(call, x)
    return _nearest(_nearest(x, x.dim() - 2, height, "DEFAULT"), x.dim() - 1, width, "DEFAULT")


def _both(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    return _linear(_linear(x, x.dim() - 2, height, mode), x.dim() - 1, width, mode)


def _upsample_bilinear(call: Call) -> Tensor:
    """Spacing comes from the sizes, not from the factors."""
    x = call.tensor("x")
    height, width = _scaled(call, x)
    aligned = call.flag("align_corners", True)
    centered = call.flag("half_pixel_centers", not aligned)
    if aligned and centered:
        raise BadCall("align_corners and half_pixel_centers exclude each other")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centered else "DEFAULT"
    return _both(x, height, width, mode)


def _resize_bilinear(call: Call) -> Tensor:
    x = call.tensor("x")
    height, width = _target(call, x)
    return _both(x, height, width, call.choice("sampling_mode", SAMPLING_MODES, "DEFAULT"))


def _resize(call: Call) -> Tensor:
    """The last `resized_dims` axes get the last extents of `shape`; 0 keeps an extent."""
    x, shape, count = call.tensor("x"), call.integers("shape"), call.integer("resized_dims")
    if not 0 <= count <= min(len(shape), x.dim()):
        raise BadCall(f"{count} axes of a tensor of rank {x.dim()} can't get extents {shape}")
    mode = call.choice("sampling_mode", SAMPLING_MODES, "DEFAULT")
    kind = call.choice("interpolation_mode", ("LINEAR", "NEAREST_NEIGHBOR"), "LINEAR")
    along = _linear if kind == "LINEAR" else _nearest
    wanted = {x.dim() - count + i: shape[len(shape) - count + i] for i in range(count)}
    call.promise([wanted.get(i, 0) or n for i, n in enumerate(x.shape)])
    for axis, new in wanted.items():
        if new:
            x = along(x, axis, new, mode)
    return x


OPERATIONS: dict[str, OpFunction] = {
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest_neighbor,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest_neighbor,
}
