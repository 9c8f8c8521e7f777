"""Rewrites that only pay on ONNX Runtime; applied after the general ones, measured the same way."""

from __future__ import annotations

from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import Rewrite, select
from cmexport.targets.onnx.providers import ProviderProfile
from cmexport.targets.onnx.rewrites import pack_attention

OWN_REWRITES: tuple[Rewrite, ...] = (pack_attention.REWRITE,)


def chosen_rewrites(profile: ProviderProfile, request: str = "all") -> tuple[Rewrite, ...]:
    """The target's own rewrites for an execution provider, as far as `--rewrites` names them.

    Raises:
        UsageError: the request names a rewrite that neither this target nor the general ones have.
    """
    named = select((*REWRITES, *OWN_REWRITES), request)
    return tuple(form for form in OWN_REWRITES if form in named) if profile.contrib_ops else ()
