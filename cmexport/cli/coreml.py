"""`cmexport coreml [CKPT]`: export, execute the saved package, write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.cli import options as o
from cmexport.cli.exporting import export_checkpoint
from cmexport.cli.showing import show_export, show_kept
from cmexport.errors import UsageError
from cmexport.quantize.precision_plan import read_plan
from cmexport.targets.base import LoweringOptions
from cmexport.targets.registry import target_named
from cmexport.threads import use_threads

Ios = Annotated[
    int,
    typer.Option("--ios", metavar="N", help="Oldest iOS that is to run it: 16, 17 or 18 (macOS 13, 14, 15)."),
]
Output = Annotated[
    str, typer.Option("--output", help="float: (N, C, H, W) in [-1, 1]; image: a picture, for --batch 1.")
]


def command(
    checkpoint: o.Checkpoint = None,
    out: o.Out = Path("out"),
    fp16: o.Fp16 = False,
    int8: o.Int8 = False,
    plan: o.Plan = None,
    w8: o.W8 = False,
    w6: o.W6 = False,
    w4: o.W4 = False,
    budget_db: o.BudgetDb = None,
    precision: o.Precision = None,
    ios: Ios = 18,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    task: o.Tasks = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    labels: o.Labels = None,
    batch: o.Batch = 1,
    output: Output = "float",
    keep_fp32: o.KeepFp32 = "none",
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
    """Export a checkpoint to Core ML; the saved package is executed and compared with PyTorch, on any machine.

    Writes the folder OUT/<name>-coreml-<precision>/ with model.mlpackage, manifest.json and preview.png. A package that
    fails its parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make one
    package with a function for each, sharing weights (iOS 18; below, one package each).
    """
    use_threads(threads)
    target = target_named("coreml")
    flags = {
        "fp16": fp16,
        "int8": int8 or plan is not None,
        "w8": w8,
        "w6": w6,
        "w4": w4,
        "mixed": budget_db is not None,
    }
    chosen = o.choose_precision(precision, flags, target.precisions)
    _check_budget(chosen, budget_db)
    lowering = LoweringOptions(
        precision=chosen,
        ios=ios,
        budget_db=budget_db,
        plan=None if plan is None else read_plan(plan),
        keep_fp32=o.keep_names(keep_fp32),
        rewrites=rewrites,
    )
    target.rewrites_for(lowering)  # a wrong option or a missing library is said before a checkpoint is read
    result = export_checkpoint(
        checkpoint,
        out,
        "coreml",
        lowering,
        o.ScheduleText(steps, timesteps, levels, sigmas),
        tasks=task,
        patch=patch,
        label=label,
        labels=labels,
        batch=batch,
        output=_output(output),
        assignments=o.with_size(assignments, size),
        weights=weights,
        trust=trust,
        seeds=seeds,
        no_verify=no_verify,
        overwrite=overwrite,
        strict=strict,
    )
    if lowering.keep_fp32:
        show_kept(result.manifest)
    show_export(result, as_json)


def _check_budget(precision: str, budget_db: float | None) -> None:
    """`--budget-db` is the whole precision `mixed`.

    Raises:
        UsageError: one without the other, or a budget that half-precision arithmetic can't keep.
    """
    if precision == "mixed" and budget_db is None:
        raise UsageError("--precision mixed: say how good the pictures must stay with --budget-db, e.g. --budget-db 45")
    if budget_db is not None and not 20 <= budget_db <= 65:
        raise UsageError(f"--budget-db {budget_db:g}: must lie between 20 and 65; above, take --fp16")


def _output(output: str) -> str:
    """`image` is what other targets call bytes.

    Raises:
        UsageError: it is something else.
    """
    if output not in ("float", "image", "uint8"):
        raise UsageError(f"--output {output}: known are float and image")
    return "float" if output == "float" else "uint8"
