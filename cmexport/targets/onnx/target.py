"""The ONNX target as the rest of cmexport sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

from cmexport.errors import UsageError
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.looping import CapturedLoop
from cmexport.graph.rewriting import Rewrite
from cmexport.onnxfile import saving
from cmexport.onnxfile.one_weights_file import gather_weights
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.onnxfile.simplifying import onnxsim, simplify_file
from cmexport.parity.ladder import Rung
from cmexport.targets.base import Graphs, LoweredModel, Target, TellStep
from cmexport.targets.onnx import lower as lowering
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.providers import profile_for
from cmexport.targets.onnx.rewrites import OWN_REWRITES, chosen_rewrites

WEIGHTS = "weights.bin"
"""Of all parts of a staged sampler."""


class OnnxTarget(Target):
    """One ONNX file per graph, verified in ONNX Runtime without and with its optimizer."""

    own_rewrites = OWN_REWRITES

    def rewrites_for(self, options: OnnxOptions) -> tuple[Rewrite, ...]:
        """Choose this target's own rewrites; see `rewrites.chosen_rewrites`."""
        _check_budgets(options)
        if options.simplify:
            onnxsim()  # Missing, it is missed now and not after minutes of calibration.
        return chosen_rewrites(profile_for(options.ep), options.rewrites, options.precision)

    def lower(
        self, graphs: Graphs, options: OnnxOptions, folder: Path, progress: TellStep
    ) -> Mapping[str, LoweredModel]:
        """Write a file for each graph; the parts of a staged sampler share `weights.bin`."""
        lowered = super().lower(graphs, options, folder, progress)
        if options.packaging == "one":
            return lowered
        progress("weights in one file")
        gather_weights([folder / model.files[0] for model in lowered.values()], folder / WEIGHTS)
        return {name: replace(model, files=(model.files[0], WEIGHTS)) for name, model in lowered.items()}

    def lower_one(
        self, captured: CapturedGraph, options: OnnxOptions, folder: Path, progress: TellStep, name: str = "model"
    ) -> LoweredModel:
        """Write the files; see `lower.lower`, and with `options.simplify` `simplify_file`."""
        lowered = lowering.lower(captured, options, folder, progress, name)
        if not options.simplify:
            return lowered
        progress("simplify")
        files, account = simplify_file(lowered.signature, folder / lowered.files[0])
        return replace(lowered, files=files, simplification=asdict(account))

    def lower_loop(
        self, loop: CapturedLoop, options: OnnxOptions, folder: Path, progress: TellStep, name: str = "model"
    ) -> LoweredModel:
        """Write a sampler that loops; see `lower.lower_loop`.

        Raises:
            UsageError: `options.simplify`. onnxsim leaves the body of a Loop alone, which is nearly the whole file, and
                fails on ONNX Runtime's own operators there.
        """
        if options.simplify:
            raise UsageError("--simplify: not for --sampler heun; onnxsim does nothing inside a loop, leave it out")
        return lowering.lower_loop(loop, options, folder, progress, name)

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """Write facts into the file; see `saving.stamp`."""
        saving.stamp(folder, files, dict(facts))

    def rungs(self, folder: Path, files: tuple[str, ...], session: Mapping[str, Any]) -> tuple[Rung, ...]:
        """ONNX Runtime on the CPU without optimization, then with all of it, then the provider the file is for.

        A provider that is not in this build of ONNX Runtime is left out: the CPU kernels then stand for it, and the
        report names the rungs it ran.
        """
        path = folder / files[0]
        rungs = [
            Rung("ONNX, no optimization", partial(OnnxRuntimeRunner, path, "none")),
            Rung("ONNX Runtime, full optimization", partial(OnnxRuntimeRunner, path, "all")),
        ]
        wanted = [p for p in session.get("providers", ()) if p != "CPUExecutionProvider"]
        if wanted and set(wanted) <= set(ort.get_available_providers()):
            opened = partial(
                OnnxRuntimeRunner, path, "all", tuple(wanted), tuple(session.get("provider_options", ())) or None
            )
            rungs.append(Rung(f"ONNX Runtime, {session['ep']}", opened))
        return tuple(rungs)


def _check_budgets(options: OnnxOptions) -> None:
    """Refuse budgets that contradict each other or the precision."""
    if options.budget_db is not None and options.budget_latency is not None:
        raise UsageError("--budget-db and --budget-latency: one budget at a time")
    budgets = (("--budget-db", options.budget_db, 20, 140), ("--budget-latency", options.budget_latency, 0.01, 2))
    for name, value, low, high in budgets:
        if value is None:
            continue
        if options.precision != "int8":
            raise UsageError(f"{name} chooses among layers in 8 bits; it goes with --int8")
        if not low <= value <= high:
            raise UsageError(f"{name} {value:g}: must lie between {low:g} and {high:g}")
