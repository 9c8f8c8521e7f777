"""The Core ML target as the rest of cmexport sees it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cmexport.graph.rewriting import Rewrite
from cmexport.parity.ladder import Rung
from cmexport.targets.base import Graphs, LoweredModel, Target, TellStep
from cmexport.targets.coreml import joining
from cmexport.targets.coreml import lower as lowering
from cmexport.targets.coreml.blame import HALF_GATE_DB
from cmexport.targets.coreml.executor.modes import Mode
from cmexport.targets.coreml.info import CoreMlOptions
from cmexport.targets.coreml.library import coremltools
from cmexport.targets.coreml.package import package_of, stamp
from cmexport.targets.coreml.rewrites import OWN_REWRITES, chosen_rewrites
from cmexport.targets.coreml.runner import ExecutorRunner, PredictRunner

_EMULATED: tuple[tuple[Mode, str], ...] = (
    ("fp16", "Core ML, half sums"),
    ("ftz", "Core ML, no subnormals"),
)
_UNITS = {"CPU_ONLY": "CPU", "CPU_AND_GPU": "GPU", "CPU_AND_NE": "Neural Engine"}


def function_of(session: Mapping[str, Any]) -> str | None:
    """The function of a package that a graph became; None where it has the package for itself."""
    several = int(session.get("ios", 0)) >= joining.LEAST_IOS
    return str(session["function"]) if several and "function" in session else None


class CoreMlTarget(Target):
    """One package per artefact (one per graph below iOS 18), verified by executing the saved program."""

    own_rewrites = OWN_REWRITES
    lower_one = staticmethod(lowering.lower)

    def rewrites_for(self, options: CoreMlOptions) -> tuple[Rewrite, ...]:
        """Choose this target's own rewrites; a missing library is told here, before any work."""
        lowering.check_budget(options)
        lowering.check_ios(options.ios)
        lowering.check_precision(options.precision, options.ios)
        lowering.check_keeping(options)
        coremltools()
        return chosen_rewrites(options.ios, options.rewrites, half=options.precision != "fp32")

    def lower(
        self, graphs: Graphs, options: CoreMlOptions, folder: Path, progress: TellStep
    ) -> Mapping[str, LoweredModel]:
        """A package for each graph, then `joining.join`."""
        lowered = super().lower(graphs, options, folder, progress)
        return joining.join(folder, lowered) if len(lowered) > 1 else lowered

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """Write facts into the package; see `package.stamp`."""
        stamp(package_of(folder, files), facts)

    def rungs(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> tuple[Rung, ...]:
        """The executor with half-precision sums, with flushed subnormals, and as declared, which is the last.

        A float32 program is the same in all three: it gets one rung. On macOS Core ML's own prediction on each unit
        comes first.
        """
        package = package_of(folder, files)
        function = function_of(session)
        rungs = []
        half = bool(session.get("half"))
        device_gate = HALF_GATE_DB if half else None
        if platform.system() == "Darwin":
            rungs += [
                Rung(f"Core ML, {unit}", partial(PredictRunner, package, function, units), device_gate)
                for units, unit in _UNITS.items()
            ]
        if half:
            rungs += [
                Rung(name, partial(ExecutorRunner, package, function, mode), HALF_GATE_DB) for mode, name in _EMULATED
            ]
        rungs.append(Rung("Core ML, ideal", partial(ExecutorRunner, package, function)))
        return tuple(rungs)
