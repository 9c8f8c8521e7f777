"""The rewrites, in the order they are applied. One file each; none knows an architecture or a target."""

from __future__ import annotations

from cmexport.graph.rewrites import (
    fit_half,
    fold_attention,
    fold_constants,
    fold_scales,
    merge_affine_norm,
    share_common,
    tabulate_labels,
)
from cmexport.graph.rewriting import Rewrite

REWRITES: tuple[Rewrite, ...] = (
    share_common.REWRITE,
    fold_constants.REWRITE,
    merge_affine_norm.REWRITE,
    tabulate_labels.REWRITE,
    fold_scales.REWRITE,
    fold_attention.REWRITE,
)

HALF_REWRITES: tuple[Rewrite, ...] = (fit_half.REWRITE,)
"""Those that a target adds, before its own, where it computes in half precision."""

__all__ = ["HALF_REWRITES", "REWRITES"]
