"""Sums of products of the input elements that a layer's weight matrix meets: what rounding by least squares weighs by.

For a convolution those elements are patches, and a patch is its neighbour moved by one row: the products of kernel rows
a and b are, over almost all positions, those of rows 0 and b - a. They are computed once over the rows that all
neighbours share and once for each row at the border, 27 products of (C, positions) by its transpose where a matrix of
3x3 patches takes 81. Pictures are gathered before they are multiplied: the product of 64 positions spends its time on
reading and writing the (2304, 2304) sums.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from cmexport.graph.fxtools import argument
from cmexport.quantize.layers import Layer

GATHERED = 16
"""Inputs multiplied at once, at least: 120 MB for all layers of the demo model."""


class Products:
    """Running sum of products of one layer's input elements.

    Attributes:
        positions: how many the sum is over.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._sums: dict[Hashable, _Sum] = {}
        self._waiting: dict[Hashable, list[Tensor]] = {}
        self.positions = 0

    @property
    def begun(self) -> bool:
        """Whether anything was taken in."""
        return bool(self._sums)

    def add(self, node: fx.Node, x: Tensor) -> None:
        """Take in inputs `x` (N, ...) of one of the layer's nodes."""
        geometry = _geometry(self._layer, node)
        alike = geometry, x.shape[1:]
        if alike not in self._sums:
            self._sums[alike] = _sum_for(self._layer, geometry, x)
        waiting = self._waiting.setdefault(alike, [])
        waiting.append(x)
        if sum(len(x) for x in waiting) >= GATHERED:
            self._multiply(alike)

    def total(self) -> Tensor:
        """(K, K) float32, K = C times the kernel's size, elements in the order of the flattened weight."""
        for alike in self._waiting:
            self._multiply(alike)
        parts = [part.total() for part in self._sums.values()]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)

    def _multiply(self, alike: Hashable) -> None:
        if waiting := self._waiting[alike]:
            self.positions += self._sums[alike].add(torch.cat(waiting))
            waiting.clear()


def _geometry(layer: Layer, node: fx.Node) -> tuple[tuple[int, ...], ...]:
    """Stride and padding; () for a layer that is no convolution."""
    if layer.operator.kind != "conv":
        return ()
    pairs = argument(node, 3, "stride", [1, 1]), argument(node, 4, "padding", [0, 0])
    return tuple(tuple(pair) for pair in pairs)  # type: ignore[arg-type]


def _sum_for(layer: Layer, geometry: tuple[tuple[int, ...], ...], x: Tensor) -> _Sum:
    if not geometry:
        return _ColumnSum(lambda x: x.flatten(0, -2))
    stride, padding = geometry
    height, width = layer.weight.shape[2:]
    if stride == (1, 1) and height > 1 and x.shape[2] + 2 * padding[0] >= 2 * height - 1:
        return _RowSum((height, width), padding)

    def patches(x: Tensor) -> Tensor:
        columns = F.unfold(x, (height, width), padding=padding, stride=stride)
        return columns.transpose(1, 2).flatten(0, 1)

    return _ColumnSum(patches)


class _Sum:
    """Of products of one geometry."""

    def add(self, x: Tensor) -> int:
        """Take in inputs (N, ...); how many positions that were."""
        raise NotImplementedError

    def total(self) -> Tensor:
        """(K, K)."""
        raise NotImplementedError


class _ColumnSum(_Sum):
    """The plain product; `columns` makes (positions, K) of an input."""

    def __init__(self, columns: Callable[[Tensor], Tensor]) -> None:
        self._columns = columns
        self._sum = torch.zeros(0, 0)

    def add(self, x: Tensor) -> int:
        columns = self._columns(x)
        if not len(self._sum):
            self._sum = torch.zeros(columns.shape[1], columns.shape[1])
        self._sum.addmm_(columns.t(), columns)
        return len(columns)

    def total(self) -> Tensor:
        return self._sum


class _RowSum(_Sum):
    """Convolutions of stride 1 on inputs of at least 2 h - 1 rows, padding included, for a kernel of h rows.

    Kernel rows a and a + d meet input rows u and u + d for u from a to a + rows - 1. What the windows of all a have in
    common, and each row at either end, is summed on its own.
    """

    def __init__(self, kernel: tuple[int, int], padding: tuple[int, ...]) -> None:
        self._kernel = kernel
        self._padding = padding
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._rows = 0
        self._channels = 0

    def add(self, x: Tensor) -> int:
        height, width = self._kernel
        vertical, horizontal = self._padding
        padded = F.pad(x, (horizontal, horizontal, vertical, vertical)).permute(1, 2, 0, 3)
        # (C, width, rows, N columns): what one row of the kernel meets.
        met = padded.unfold(3, width, 1).permute(0, 4, 1, 2, 3).flatten(3).flatten(0, 1)
        self._channels, self._rows = x.shape[1], padded.shape[1] - height + 1
        for distance in range(height):
            for begin, end in self._ranges(distance):
                first, second = (met[:, u:v].flatten(1) for u, v in ((begin, end), (begin + distance, end + distance)))
                key = distance, begin
                if key not in self._sums:
                    self._sums[key] = torch.zeros(len(met), len(met))
                self._sums[key].addmm_(first, second.t())
        return self._rows * met.shape[2]

    def total(self) -> Tensor:
        height, width = self._kernel
        size = self._channels
        found = torch.empty(size, height, width, size, height, width)
        for distance in range(height):
            for a in range(height - distance):
                inside = [self._sums[distance, u] for u, v in self._ranges(distance) if a <= u and v <= a + self._rows]
                block = torch.stack(inside).sum(dim=0).reshape(size, width, size, width)
                found[:, a, :, :, a + distance] = block
                found[:, a + distance, :, :, a] = block.permute(2, 3, 0, 1)
        return found.reshape(size * height * width, -1)

    def _ranges(self, distance: int) -> list[tuple[int, int]]:
        """Rows at the upper end one by one, those that all windows share, rows at the lower end one by one."""
        edge = self._kernel[0] - 1 - distance
        upper = [(u, u + 1) for u in range(edge)]
        lower = [(u, u + 1) for u in range(self._rows, self._rows + edge)]
        return [*upper, (edge, self._rows), *lower]
