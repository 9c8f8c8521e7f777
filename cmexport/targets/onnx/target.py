"""The ONNX target as the rest of cmexport sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort

from cmexport.errors import UsageError
from cmexport.graph.capture import CapturedGraph
from cmexport.graph.looping import CapturedLoop
from cmexport.graph.rewriting import Rewrite
from cmexport.onnxfile import saving
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.onnxfile.simplifying import simplify_file
from cmexport.parity.ladder import Rung
from cmexport.targets.base import LoweredModel, LoweringOptions, Progress
from cmexport.targets.onnx import lower as lowering
from cmexport.targets.onnx.forms import FORMS, forms_for
from cmexport.targets.onnx.providers import profile_for


@dataclass(frozen=True)
class OnnxTarget:
    """One ONNX file per graph, verified in ONNX Runtime without and with its optimizer."""

    name: str = "onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8", "a16w8", "w8", "w4")
    loop_precisions: tuple[str, ...] = ("fp32", "fp16")
    own_rewrites: tuple[Rewrite, ...] = FORMS

    def rewrites_for(self, options: LoweringOptions) -> tuple[Rewrite, ...]:
        """See `forms.forms_for`."""
        return forms_for(profile_for(options.ep), options.rewrites)

    def lower(
        self, captured: CapturedGraph, options: LoweringOptions, folder: Path, progress: Progress, name: str = "model"
    ) -> LoweredModel:
        """See `lower.lower`; with `options.simplify`, `simplify_file` after it."""
        lowered = lowering.lower(captured, options, folder, progress, name)
        if not options.simplify:
            return lowered
        progress("simplify")
        files, account = simplify_file(lowered.signature, folder / lowered.files[0])
        return replace(lowered, files=files, simplification=asdict(account))

    def lower_loop(
        self, loop: CapturedLoop, options: LoweringOptions, folder: Path, progress: Progress, name: str = "model"
    ) -> LoweredModel:
        """See `lower.lower_loop`.

        Raises:
            UsageError: `options.simplify`. onnxsim leaves the body of a Loop alone, which is nearly the whole file, and
                fails on ONNX Runtime's own operators there.
        """
        if options.simplify:
            raise UsageError("--simplify: not for --sampler heun; onnxsim does nothing inside a loop, leave it out")
        return lowering.lower_loop(loop, options, folder, progress, name)

    def join(self, folder: Path, lowered: Mapping[str, LoweredModel]) -> Mapping[str, LoweredModel]:  # noqa: ARG002
        """An ONNX file holds one graph: each stays a file of its own."""
        return lowered

    def stamp(self, folder: Path, files: tuple[str, ...], facts: Mapping[str, str]) -> None:
        """See `saving.stamp`."""
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
