"""What stays in float32 in a half-precision artefact, and why: the same account for every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cmexport.parity.blame import OperationBlame
from cmexport.parity.metrics import PictureDifference

AUTO = ("auto",)
"""What the option `keep_fp32` holds to have them found."""

NAMED = 3
"""Operations that a sentence names; the others are counted."""


@dataclass(frozen=True)
class Kept:
    """Operations that stay in float32, in the order of the program or graph, and why."""

    names: tuple[str, ...] = ()
    reason: str = ""

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of kept operations; nothing if none is kept."""
        return {"kept_float32": list(self.names), "kept_float32_reason": self.reason} if self.names else {}


def why_kept(operations: Sequence[OperationBlame], drawn: PictureDifference) -> str:
    """Return what half precision did to the operations and to the pictures drawn with it, in a sentence."""
    overflowing = [r.name for r in operations if r.overflows_itself]
    pictures = (
        "pictures hold NaN or Inf"
        if drawn.non_finite
        else "pictures are the same"
        if drawn.mean_db is None
        else f"pictures keep {drawn.mean_db:.1f} dB"
    )
    if not overflowing:
        return f"{pictures} in half precision"
    rest = len(overflowing) - NAMED
    listed = ", ".join(overflowing[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return f"{listed} overflow{'s' if len(overflowing) == 1 else ''}, {pictures} in half precision"
