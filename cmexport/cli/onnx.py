"""`cmexport onnx [CKPT]`: export, verify, write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.cli import options as o
from cmexport.cli.exporting import export_checkpoint
from cmexport.cli.showing import show_export
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
    task: o.Tasks = "generate",
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
    parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make a file
    each.
    """
    target = target_named("onnx")
    chosen = o.choose_precision(precision, {"fp16": fp16}, target.precisions)
    result = export_checkpoint(
        checkpoint,
        out,
        "onnx",
        LoweringOptions(precision=chosen, ep=ep, rewrites=rewrites),
        o.ScheduleText(steps, timesteps, levels, sigmas),
        tasks=task,
        patch=patch,
        label=label,
        batch=batch,
        output=output,
        assignments=assignments,
        trust=trust,
        seeds=seeds,
        no_verify=no_verify,
    )
    show_export(result, as_json)
