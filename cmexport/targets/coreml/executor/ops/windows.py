"""Padding and output sizes that convolutions and pools share.

Formulas: `spatial_dimensions_out_shape` and `aggregated_pad` in coremltools (`mil/ops/defs/_utils.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from cmexport.targets.coreml.executor.ops.calling import BadCall, Call, limited

PAD_TYPES = ("valid", "same", "same_lower", "custom")


def padding(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Cells added (before, after) each spatial axis.

    "same" makes ceil(size / stride) outputs and puts an odd cell at the end, "same_lower" at the beginning.
    """
    kind = call.choice("pad_type", PAD_TYPES, "valid")
    if not len(sizes) == len(kernel) == len(strides) == len(dilations):
        raise BadCall(f"kernel, strides and dilations don't fit {len(sizes)} spatial axes")
    if min(*strides, *dilations, 1) < 1:
        raise BadCall("strides and dilations must be positive")
    if kind == "custom":
        pad = call.integers("pad", [0] * 2 * len(sizes))
        if len(pad) != 2 * len(sizes) or min(pad, default=0) < 0:
            raise BadCall(f"padding {pad} doesn't fit {len(sizes)} spatial axes")
        return list(zip(pad[::2], pad[1::2], strict=True))
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    pads = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, stride * math.ceil(size / stride) - size + (extent - 1) * dilation + 1 - stride)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if kind == "same" else (large, small))
    return pads


def pad_spatial(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the last axes; negative padding crops."""
    flat = [cells for pair in reversed(pads) for cells in pair]
    kept = x.shape[: x.dim() - len(pads)]
    limited([*kept, *(n + sum(pair) for n, pair in zip(x.shape[len(kept) :], pads, strict=True))])
    return F.pad(x, flat, value=value) if any(flat) else x
