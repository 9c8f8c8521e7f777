"""Rewrites that shape a graph for Core ML; applied after the general ones, measured the same way."""

from __future__ import annotations

from cmexport.graph.rewrites import HALF_REWRITES, REWRITES
from cmexport.graph.rewriting import Rewrite, select
from cmexport.targets.coreml.rewrites import attention, flat_renoise, label_columns, native_norm

OWN_REWRITES: tuple[Rewrite, ...] = (
    *HALF_REWRITES,  # before the one that takes GroupNorm apart
    native_norm.REWRITE,
    attention.FUSED,
    attention.MATMUL,
    label_columns.REWRITE,
    flat_renoise.REWRITE,
)


def chosen_rewrites(ios: int, request: str = "all", *, half: bool = False) -> tuple[Rewrite, ...]:
    """The target's own rewrites for a deployment target, as far as `--rewrites` names them; `half`: all but fp32.

    Raises:
        UsageError: the request names a rewrite that neither this target nor the general ones have.
    """
    named = select((*REWRITES, *OWN_REWRITES), request)
    others = (attention.MATMUL if ios >= 18 else attention.FUSED, *(() if half else HALF_REWRITES))
    return tuple(form for form in OWN_REWRITES if form in named and form not in others)
