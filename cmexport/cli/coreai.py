"""`cmexport coreai [CKPT]`: export, run in Apple's runtime, write. Experimental."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.cli import options as o
from cmexport.cli.exporting import export_checkpoint
from cmexport.cli.showing import show_export
from cmexport.targets.base import LoweringOptions
from cmexport.targets.registry import target_named
from cmexport.threads import use_threads

Precision = Annotated[
    str | None, typer.Option("--precision", metavar="P", help="The same by name: fp32 (default) or fp16.")
]


def command(
    checkpoint: o.Checkpoint = None,
    out: o.Out = Path("out"),
    fp16: o.Fp16 = False,
    precision: Precision = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    task: o.Tasks = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    labels: o.Labels = None,
    batch: o.Batch = 1,
    output: o.Output = "float",
    rewrites: o.Rewrites = "all",
    size: o.Size = None,
    assignments: o.Set = None,
    weights: o.Weights = None,
    strict: o.Strict = False,
    trust: o.Trust = False,
    seeds: o.Seeds = None,
    no_verify: o.NoVerify = False,
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    as_json: o.AsJson = False,
) -> None:
    """Beta: export a checkpoint to Core AI, Apple's successor to Core ML; Apple's own runtime runs it to check it.

    Writes the folder OUT/<name>-coreai-<precision>/ with model.aimodel, manifest.json and preview.png. An asset that
    fails its parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make an
    asset each. Off a Mac the runtime is slow (the demo model: one second a picture, 4.5 with --fp16): --seeds 8
    compares fewer. Needs pip install 'cmexport[coreai]': pre-releases whose format may still change.
    """
    use_threads(threads)
    target = target_named("coreai")
    chosen = o.choose_precision(precision, {"fp16": fp16}, target.precisions)
    lowering = LoweringOptions(precision=chosen, rewrites=rewrites)
    target.rewrites_for(lowering)  # a missing library is said before a checkpoint is read
    result = export_checkpoint(
        checkpoint,
        out,
        "coreai",
        lowering,
        o.ScheduleText(steps, timesteps, levels, sigmas),
        tasks=task,
        patch=patch,
        label=label,
        labels=labels,
        batch=batch,
        output=output,
        assignments=o.with_size(assignments, size),
        weights=weights,
        trust=trust,
        seeds=seeds,
        no_verify=no_verify,
        overwrite=overwrite,
        strict=strict,
    )
    show_export(result, as_json)
