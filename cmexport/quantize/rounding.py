"""Round a weight tensor to what a storage format can hold; the result is the tensor as it will be read back."""

from __future__ import annotations

import torch
from torch import Tensor

from cmexport.quantize.formats import WeightFormat

_BINS = 4096
"""Of a histogram that stands for a large group's weights: 16 times as many as the finest palette has entries."""
_COARSE_BINS = 64
"""Of the histogram that entries start from. With 512 the tails' bins hold one weight each, and entries are wasted
there: 64 entries for 32,768 weights are then 1.04 times as bad as scikit-learn's, and with 64 bins 0.99 times."""
_ITERATIONS = 20
"""Of Lloyd's algorithm."""


def rounded(weight: Tensor, importance: Tensor | None, format: WeightFormat) -> Tensor:
    """`weight` (channels_out, ...) as `format` holds it, in float32.

    Scales and palette entries are half-precision numbers already, so that storing them changes nothing.

    Args:
        weight: float.
        importance: of each element's squared error, same shape, not negative; None: all the same. Only palettes use it.
        format: what is to hold it.
    """
    if format.kind == "linear":
        return _linear(weight.float(), format.bits)
    if format.kind == "palette":
        return _palette(weight.float(), importance, format)
    return weight.half().float()


def _linear(weight: Tensor, bits: int) -> Tensor:
    """Symmetric: codes -(2^(b-1) - 1) to 2^(b-1) - 1, zero is exact, the largest element of a channel has the last.

    Unless the scale would be subnormal: half-precision hardware may flush it to zero, and the channel with it.
    """
    top = (1 << (bits - 1)) - 1
    rows = weight.flatten(1)
    scale = (rows.abs().amax(dim=1, keepdim=True) / top).half().float().clamp_min(torch.finfo(torch.half).tiny)
    codes = (rows / scale).round().clamp(-top, top)
    return (codes * scale).reshape(weight.shape)


def _palette(weight: Tensor, importance: Tensor | None, format: WeightFormat) -> Tensor:
    values = weight.flatten()
    shares = torch.ones_like(values) if importance is None else importance.float().flatten()
    # Only ratios matter; elements that nothing depends on count a thousandth of the mean.
    mean = shares.mean().clamp_min(torch.finfo(torch.float32).tiny)
    table = weighted_means(*_histogram(values, shares / mean + 1e-3), 2**format.bits).half().float()
    return torch.take(table, _nearest(table, values)).reshape(weight.shape)


def _histogram(values: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """At most `_BINS` numbers with their shares, each the mean of the values in its bin; empty bins are left out."""
    if values.numel() <= _BINS:
        return values, shares
    low, high = values.min(), values.max()
    bins = ((values - low) * ((_BINS - 1) / (high - low).clamp_min(torch.finfo(values.dtype).tiny))).long()
    mass = torch.zeros(_BINS).scatter_add(0, bins, shares)
    moment = torch.zeros(_BINS).scatter_add(0, bins, shares * values)
    return (moment / mass)[mass > 0], mass[mass > 0]


def weighted_means(values: Tensor, shares: Tensor, count: int) -> Tensor:
    """The `count` numbers, ascending, that minimize sum share (value - nearest)^2.

    Weighted k-means in one dimension by Lloyd's algorithm, as SqueezeLLM (Kim et al. 2023, arXiv:2306.07629) has it for
    weights. With at most `count` different values those themselves come back, the largest one repeated.

    Args:
        values: (n,).
        shares: (n,), positive.
        count: how many.
    """
    distinct: Tensor = torch.unique(values)
    if len(distinct) <= count:
        return torch.cat([distinct, distinct[-1:].expand(count - len(distinct))])
    means = _starting_points(values, shares, count)
    for _ in range(_ITERATIONS):
        nearest = _nearest(means, values)
        total = torch.zeros_like(means).scatter_add_(0, nearest, shares)
        moment = torch.zeros_like(means).scatter_add_(0, nearest, shares * values)
        means = torch.where(total > 0, moment / total.clamp_min(torch.finfo(values.dtype).tiny), means).sort().values
    return means


def _starting_points(values: Tensor, shares: Tensor, count: int) -> Tensor:
    """Entries spaced by the cube root of the density, the best spacing for many entries (Panter and Dite 1951).

    Lloyd's algorithm moves mass between neighbours only: from equal parts of the elements, 64 entries are still twice
    as bad as scikit-learn's after a dozen steps.
    """
    low, high = float(values.min()), float(values.max())
    width = (high - low) / _COARSE_BINS
    bins = ((values - low) / width).long().clamp_max(_COARSE_BINS - 1)
    density = torch.zeros(_COARSE_BINS).scatter_add_(0, bins, shares).pow(1 / 3)
    total = torch.cat([torch.zeros(1), density.cumsum(0)])
    wanted = total[-1] * (torch.arange(count) + 0.5) / count
    left = (torch.searchsorted(total, wanted) - 1).clamp(0, _COARSE_BINS - 1)
    inside = (wanted - total[left]) / density[left].clamp_min(torch.finfo(torch.float32).tiny)
    return (low + width * (left + inside.clamp(0, 1))).sort().values


def _nearest(table: Tensor, values: Tensor) -> Tensor:
    """Index of the nearest entry; the table ascends."""
    return torch.searchsorted((table[1:] + table[:-1]) / 2, values)
