"""How one weight tensor can be stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FLOAT_BITS = 16
"""What a weight costs that isn't compressed, and each scale and palette entry: half precision."""


@dataclass(frozen=True)
class WeightFormat:
    """A storage format of a weight (channels_out, ...).

    Attributes:
        kind: "float" as it is; "linear" symmetric integers with one scale per output channel; "palette" indices into
            one table of 2^bits values. (A table for every 16 channels, which iOS 18 has, was no better: 43.7 dB against
            44.3 for the demo model in 4.25 bits, tables counted.)
        bits: of each element.
    """

    kind: str
    bits: int = FLOAT_BITS

    def __str__(self) -> str:
        return f"{self.kind}{self.bits}"

    def stored_bits(self, shape: Sequence[int]) -> int:
        """Bits of the tensor with its scales or table."""
        elements = int(math.prod(shape)) * self.bits
        if self.kind == "linear":
            return elements + shape[0] * FLOAT_BITS
        if self.kind == "palette":
            return elements + (1 << self.bits) * FLOAT_BITS
        return elements


FLOAT = WeightFormat("float")
LINEAR8 = WeightFormat("linear", 8)
PALETTES = tuple(WeightFormat("palette", bits) for bits in (2, 3, 4, 6))
"""Palettes that every target has; one of 8 bits is no smaller than integers and needs a table."""
