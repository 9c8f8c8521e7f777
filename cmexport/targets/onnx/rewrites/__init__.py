"""Rewrites that only pay on ONNX Runtime; applied after the general ones, measured the same way."""

from __future__ import annotations

from cmexport.graph.rewrites import HALF_REWRITES, REWRITES
from cmexport.graph.rewriting import Rewrite, select
from cmexport.targets.onnx.providers import ProviderProfile
from cmexport.targets.onnx.rewrites import pack_attention

OWN_REWRITES: tuple[Rewrite, ...] = (*HALF_REWRITES, pack_attention.REWRITE)


def chosen_rewrites(profile: ProviderProfile, request: str = "all", *, half: bool = False) -> tuple[Rewrite, ...]:
    """The target's own rewrites for an execution provider, as far as `--rewrites` names them; `half`: for fp16.

    Raises:
        UsageError: the request names a rewrite that neither this target nor the general ones have.
    """
    named = select((*REWRITES, *OWN_REWRITES), request)
    wanted = (*(HALF_REWRITES if half else ()), *((pack_attention.REWRITE,) if profile.contrib_ops else ()))
    return tuple(form for form in wanted if form in named)
