"""What stands before the embedding of a continuous condition."""

from __future__ import annotations

from torch import Tensor, nn


class UnitInterval(nn.Module):
    """A number between `low` and `high`, (N,), to one between 0 and 1; with `steps`, to the nearest of so many."""

    def __init__(self, low: float, high: float, steps: int | None = None) -> None:
        super().__init__()
        self.low, self.high, self.steps = float(low), float(high), steps

    def forward(self, number: Tensor) -> Tensor:
        """Map (N,) to (N,)."""
        if self.steps is None:
            return (number - self.low) / (self.high - self.low)
        index = ((number - self.low) * ((self.steps - 1) / (self.high - self.low))).round()
        return index / (self.steps - 1)
