"""The PSNR that an artefact's pictures must reach, by precision."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from cmexport.errors import UsageError
from cmexport.parity.metrics import PEAK, psnr_db

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
    """Find the gate of a precision in dB; for weights of mixed widths, the budget that chose them."""
    budget = numerics.get("budget_db")
    return float(budget) if isinstance(budget, int | float) else gate_for(precision)


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
