"""The PSNR that an artefact's pictures must reach, and how far they must follow a prompt, by precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from cmexport.errors import UsageError
from cmexport.parity.metrics import PEAK, PictureDifference, psnr_db
from cmexport.runner import Runner

GATES_DB: Mapping[str, float] = MappingProxyType(
    {
        **{"fp32": 100.0, "fp16": 60.0},
        # bfloat16 has 8 bits where float16 has 11, 18 dB: the demo model has 58.9 dB (worst 54.5), in float16 86.9.
        "bf16": 48.0,
        **{"w8": 52.0, "a16w8": 52.0},
        # 8-bit floats have 4 bits, and ranges that adapt: no better and no worse than integers.
        **{"int8": 38.0, "fp8": 38.0},
        **{"w6": 42.0, "w4": 30.0},
    }
)
"""Mean PSNR over pictures in dB, peak 2.0, for float pictures."""


def gate_for(precision: str) -> float:
    """Gate of a precision in dB.

    Raises:
        UsageError: no gate is known for that precision.
    """
    if precision not in GATES_DB:
        raise UsageError(f"unknown precision '{precision}'; known: {', '.join(GATES_DB)}")
    return GATES_DB[precision]


def gate_of(precision: str, numerics: Mapping[str, object]) -> float:
    """Find the gate of a precision in dB: a measured one, for weights of mixed widths the budget that chose them."""
    known = numerics.get("gate_db", numerics.get("budget_db"))
    return float(known) if isinstance(known, int | float) else gate_for(precision)


def text_gate(precision: str) -> tuple[float, float]:
    """Between which ratios to the reference's a precision must react to its prompt."""
    return (0.95, 1.05) if precision in ("fp32", "fp16", "bf16") else (0.9, 1.1)


FLOOR_DB = 20.0
"""No measured gate is lower. Pictures of lcm-emoji (128x128, one and two steps) lie 9 dB from those of another prompt
with the same noise, 5 from noise, 11.5 from their own mean colour, and 17 to 19 from themselves in 16x16 blocks: what
scores 20 dB shows the right thing."""


@dataclass(frozen=True)
class Yardstick:
    """What a precision plainly reaches in PyTorch, the gate where amplified rounding makes an absolute one meaningless.

    Attributes:
        name: for people: "plain w8 in PyTorch".
        open: its runner; None: the reference itself, measured against float64.
        margin_db: what an artefact must have beyond it.
        pictures: on how many pictures it is measured.
    """

    name: str
    open: Callable[[], Runner] | None
    margin_db: float = 0.0
    pictures: int = 16

    @property
    def origin(self) -> str:
        """Where the gate comes from, in words."""
        margin = f" {'+' if self.margin_db > 0 else '-'} {abs(self.margin_db):.0f} dB" if self.margin_db else ""
        return self.name + margin

    def gate(self, absolute_db: float, plain: PictureDifference, *, in_bytes: bool) -> tuple[float, str]:
        """Return the gate for float pictures in dB, and its origin; "" where the absolute one is no higher.

        Args:
            absolute_db: of the precision.
            plain: the plain pictures against the reference's.
            in_bytes: whether those were bytes.
        """
        if plain.mean_db is None:
            return (absolute_db, "") if plain.identical else (FLOOR_DB, f"the floor; {self.name} gives NaN or Inf")
        found = (float_gate(plain.mean_db) if in_bytes else plain.mean_db) + self.margin_db
        if found >= absolute_db:
            return absolute_db, ""
        if found < FLOOR_DB:
            return FLOOR_DB, f"the floor; {self.origin} is {found:.1f} dB"
        return found, self.origin


def byte_gate(gate_db: float) -> float:
    """Return what a float gate means for pictures in bytes, in dB.

    Rounding to bytes turns an error d far below one level q = 2/255 into rare errors of a whole level: the mean
    squared error becomes d^2 + q^2 f(1-f), f the fractional part of |d|/q, once averaged over where the value lies
    between two levels. A float picture at 100 dB scores 75 dB in bytes, and no backend reaches 100 dB there. This is
    the score of Gaussian errors that meet the float gate exactly; it is within 0.1 dB of the float gate below 40 dB.
    """
    rms, level = PEAK * 10.0 ** (-gate_db / 20.0), PEAK / 255.0
    deviates = np.linspace(0.0, 8.0, 20_001)
    weights = np.exp(-(deviates**2) / 2.0)
    fraction = np.modf(deviates * rms / level)[0]
    rounding = float(np.sum(weights * fraction * (1.0 - fraction)) / np.sum(weights))
    return psnr_db(rms**2 + level**2 * rounding)


def float_gate(byte_db: float) -> float:
    """Return the gate for float pictures that `byte_gate` makes `byte_db` of, up to 120 dB."""
    low, high = 0.0, 120.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if byte_gate(middle) < byte_db else (low, middle)
    return low
