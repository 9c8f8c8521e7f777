"""Rewrites that only pay on ONNX Runtime; applied after the general ones, measured the same way."""

from __future__ import annotations

from cmexport.graph.rewrites import HALF_REWRITES, REWRITES
from cmexport.graph.rewriting import Rewrite, select
from cmexport.targets.onnx.providers import ProviderProfile
from cmexport.targets.onnx.rewrites import pack_attention, subpixel

OWN_REWRITES: tuple[Rewrite, ...] = (*HALF_REWRITES, pack_attention.REWRITE, subpixel.REWRITE)


def chosen_rewrites(profile: ProviderProfile, request: str = "all", precision: str = "fp32") -> tuple[Rewrite, ...]:
    """The target's own rewrites for an execution provider and a precision, as far as `--rewrites` names them.

    Raises:
        UsageError: the request names a rewrite that neither this target nor the general ones have.
    """
    named = select((*REWRITES, *OWN_REWRITES), request)
    # Layers in few bits are found by their names, and stored ones are to be small: those stay whole.
    floats = precision in ("fp32", "fp16")
    wanted = (
        *(HALF_REWRITES if precision == "fp16" else ()),
        *((pack_attention.REWRITE,) if profile.contrib_ops else ()),
        *((subpixel.REWRITE,) if profile.contrib_ops and profile.own_kernels and floats else ()),
    )
    return tuple(form for form in wanted if form in named)
