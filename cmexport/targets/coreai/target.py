"""The Core AI target as the rest of cmexport sees it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cmexport.graph.rewrites import HALF_REWRITES, REWRITES
from cmexport.graph.rewriting import Rewrite, select
from cmexport.parity.ladder import Rung
from cmexport.targets.base import Target
from cmexport.targets.coreai import lower as lowering
from cmexport.targets.coreai.asset import asset_of, stamp
from cmexport.targets.coreai.library import assets, converter
from cmexport.targets.coreai.runner import CoreAiRunner
from cmexport.targets.info import LoweringOptions


class CoreAiTarget(Target):
    """One asset per graph, verified in Apple's own runtime."""

    own_rewrites = HALF_REWRITES
    lower_one = staticmethod(lowering.lower)

    def rewrites_for(self, options: LoweringOptions) -> tuple[Rewrite, ...]:
        """Those for half precision. A missing library is told here, before anything is captured."""
        converter()
        assets()
        named = select((*REWRITES, *HALF_REWRITES), options.rewrites)
        return tuple(form for form in HALF_REWRITES if options.precision == "fp16" and form in named)

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """Write facts into the asset; see `asset.stamp`."""
        stamp(asset_of(folder, files), facts)

    def rungs(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> tuple[Rung, ...]:  # noqa: ARG002
        """Apple's runtime; off macOS it has the CPU only.

        Half precision has no gate of its own: over 64 seeds the demo model keeps 74.3 dB there (70.4 at
        worst), well above the precision's 60.
        """
        unit = "" if platform.system() == "Darwin" else ", CPU"
        return (Rung(f"Core AI runtime{unit}", partial(CoreAiRunner, asset_of(folder, files))),)
