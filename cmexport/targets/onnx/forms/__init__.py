"""Rewrites that only pay on ONNX Runtime; applied after the general ones, measured the same way."""

from __future__ import annotations

from cmexport.graph.rewriting import Rewrite
from cmexport.targets.onnx.forms import pack_attention
from cmexport.targets.onnx.providers import ProviderProfile


def forms_for(profile: ProviderProfile) -> tuple[Rewrite, ...]:
    """The target's own rewrites for an execution provider."""
    return (pack_attention.REWRITE,) if profile.contrib_ops else ()
