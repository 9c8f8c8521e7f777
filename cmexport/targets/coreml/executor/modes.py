"""Three ways to compute a half-precision program, from the best Core ML may do to the worst.

`ideal`: every value is stored in its declared type, every operation computes in float32 and rounds once, at its end. A
    compute unit with wide accumulators does this.
`fp16`: half precision throughout. Long sums (convolutions, matrix products, reductions, norms) are split into runs of
    32 products; a run is summed exactly, rounded to half, and runs are added in half. Products are added one run after
    the other, as an array of multipliers does; reductions add their runs pairwise, as lanes of a vector unit do.
    Squares and other intermediate results inside norms are rounded to half too, so a deviation above 256 overflows
    (its square is above 65504). Everything else (elementwise functions, activations) rounds once.
`ftz`: as `fp16`, and numbers below the smallest normal one (2^-14 = 6.1e-5) are zero, wherever they appear.

Apple doesn't document what its kernels do; the three span what has been observed. Programs declared float32 compute in
float32 in all modes.

A fourth, `wide`, is nothing a device does: what is declared float16 is kept in float32 and rounded nowhere, while
weights have the numbers that are stored. It is what half precision is compared with, operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Mode = Literal["ideal", "fp16", "ftz", "wide"]
MODES: tuple[Mode, ...] = ("ideal", "fp16", "ftz")
"""What a device may do."""

WIDE: Mode = "wide"

RUN = 32
"""Products summed exactly before the sum is rounded: the width of a typical half-precision dot product unit."""

LARGEST_SUBNORMAL = 2.0**-14 - 2.0**-24
"""The half before the smallest normal one, 2^-14; numbers up to here are 2^-24 apart."""


def flush(x: Tensor) -> Tensor:
    """A float16 tensor with subnormal numbers replaced by zero; infinities and NaN stay.

    `hardshrink` is this in one pass; comparing and selecting take five times as long.
    """
    return torch.nn.functional.hardshrink(x, LARGEST_SUBNORMAL)


@dataclass(frozen=True)
class Arithmetic:
    """How one operation rounds on its way. All tensors here are float32 (or wider) whatever their declared type.

    Attributes:
        half: whether intermediate results are rounded to half precision.
        flushes: whether they lose subnormals, too.
        wide: whether results declared float16 stay in float32.
    """

    half: bool
    flushes: bool = False
    wide: bool = False

    def narrow(self, x: Tensor) -> Tensor:
        """An intermediate result as the compute unit holds it, in float16; `x` itself where nothing is rounded."""
        if not self.half:
            return x
        stored = x.to(torch.float16)
        return flush(stored) if self.flushes else stored

    def round(self, x: Tensor) -> Tensor:
        """An intermediate result as the compute unit would hold it, in the type it came in."""
        return self.narrow(x).to(x.dtype)

    def sum(self, x: Tensor, dims: Sequence[int], keepdim: bool = False, scale: Tensor | float = 1.0) -> Tensor:
        """The sum of x over `dims`, times `scale`: runs are scaled before they are rounded, so means can't overflow.

        Args:
            x: anything.
            dims: axes to sum; none means no axis at all, and x comes back scaled.
            keepdim: keep summed axes with extent 1.
            scale: a number, or a tensor that broadcasts to the result without summed axes (then keepdim is False).
        """
        axes = sorted(d % x.dim() for d in dims)
        if not self.half or not axes:
            total = x.sum(axes, keepdim=keepdim) if axes else x
            return self.round(total * scale)
        kept = [d for d in range(x.dim()) if d not in axes]
        rows = x.permute(*kept, *axes).reshape(*(x.shape[d] for d in kept), -1)
        length = rows.shape[-1]
        runs = -(-length // RUN)
        if length % RUN:
            rows = torch.nn.functional.pad(rows, (0, runs * RUN - length))
        rows = rows.reshape(*rows.shape[:-1], runs, RUN).sum(-1)
        # The loop adds halves: torch computes such a sum in float32 and rounds once, which is what is asked for.
        rows = self.narrow(rows * (scale.unsqueeze(-1) if isinstance(scale, Tensor) else scale))
        while rows.shape[-1] > 1:
            even = rows.shape[-1] // 2 * 2
            pairs = self.narrow(rows[..., 0:even:2] + rows[..., 1:even:2])
            rows = pairs if even == rows.shape[-1] else torch.cat([pairs, rows[..., even:]], dim=-1)
        total = (rows[..., 0] if runs else rows.sum(-1)).to(x.dtype)
        if keepdim:
            for axis in axes:
                total = total.unsqueeze(axis)
        return total

    def mean(self, x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
        """Arithmetic mean over `dims`."""
        count = 1
        for d in dims:
            count *= x.shape[d]
        return self.sum(x, dims, keepdim, scale=1.0 / max(count, 1))

    def accumulate(self, length: int, part: Callable[[slice], Tensor]) -> Tensor:
        """The sum over runs of `part(run)`, the runs covering range(length) in order; float16 where it is rounded.

        Args:
            length: number of products summed for every output.
            part: sums the products of one slice exactly, into a tensor of its own.
        """
        if not self.half:
            return part(slice(0, length))
        return self.add_up(self.narrow(part(slice(s, min(s + RUN, length)))) for s in range(0, max(length, 1), RUN))

    def add_up(self, terms: Iterable[Tensor]) -> Tensor:
        """The sum of float16 tensors, one after the other and rounded each time; none of them is changed.

        torch adds two halves in float32 and rounds once: one pass, where widening, adding and rounding take four.
        """
        total: Tensor | None = None
        for term in terms:
            total = term if total is None else self.narrow(total + term)
        assert total is not None
        return total
