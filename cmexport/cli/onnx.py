"""`cmexport onnx [CKPT]`: export, verify, write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.requests import build_request, open_checkpoint, tuned_sigmas, verify_options
from cmexport.errors import ParityError
from cmexport.export import ExportOptions, ExportResult, export_model
from cmexport.parity.table import parity_table, verdict
from cmexport.sampling.schedules import EXPORTED_EDITING_STEPS
from cmexport.targets.base import LoweringOptions
from cmexport.targets.registry import target_named

Ep = Annotated[
    str,
    typer.Option(
        "--ep",
        metavar="NAME",
        help="Execution provider to shape the graph for: cpu, cuda, openvino, xnnpack, "
        "qnn, coreml, nnapi. All but cpu and cuda get plain ONNX operators.",
    ),
]


def command(
    checkpoint: o.Checkpoint = None,
    out: o.Out = Path("out"),
    fp16: o.Fp16 = False,
    precision: o.Precision = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    task: o.Task = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    batch: o.Batch = 1,
    output: o.Output = "float",
    ep: Ep = "cpu",
    rewrites: o.Rewrites = "all",
    assignments: o.Set = None,
    trust: o.Trust = False,
    seeds: o.Seeds = None,
    no_verify: o.NoVerify = False,
    as_json: o.AsJson = False,
) -> None:
    """Export a checkpoint to ONNX: noise in, picture out, checked against PyTorch.

    Writes the folder OUT/<name>-onnx-<precision>/ with model.onnx, manifest.json and preview.png. A file that fails its
    parity gate is kept as *.rejected and the exit code is 4.
    """
    target = target_named("onnx")
    chosen = o.choose_precision(precision, {"fp16": fp16}, target.precisions)
    with console.working("load") as progress:
        model = open_checkpoint(checkpoint, assignments, trust=trust)
        request = build_request(
            model,
            o.ScheduleText(steps, timesteps, levels, sigmas),
            label,
            batch,
            output,
            task=task,
            patch=patch,
            tuned=tuned_sigmas(checkpoint),
            editing_steps=EXPORTED_EDITING_STEPS,
        )
        options = ExportOptions(
            target="onnx",
            lowering=LoweringOptions(precision=chosen, ep=ep, rewrites=rewrites),
            verify=None if no_verify else verify_options(seeds),
            expendable=True,
        )
        result = export_model(model, request, options, out, progress)
    _report(result, as_json)
    if result.parity is not None and not result.parity.passed:
        raise ParityError(f"{result.folder}: {verdict(result.parity)}")


def _report(result: ExportResult, as_json: bool) -> None:
    if as_json:
        console.emit_json({"folder": str(result.folder), "manifest": result.manifest.model_dump(mode="json")})
        return
    if result.parity is not None:
        console.say(parity_table(result.parity))
        if result.parity.passed:
            console.say(verdict(result.parity))
    else:
        console.say("Not verified (--no-verify).")
    for file in result.manifest.files:
        console.say(f"{result.folder / file.path}  {file.bytes / 1e6:.2f} MB")
