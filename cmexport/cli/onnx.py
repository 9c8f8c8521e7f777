"""`cmexport onnx [CKPT]`: export, verify, write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.cli import options as o
from cmexport.cli.budgets import check_budgets, check_latency, show_frontier
from cmexport.cli.exporting import export_checkpoint
from cmexport.cli.showing import show_export
from cmexport.onnxfile.simplifying import onnxsim
from cmexport.quantize.precision_plan import read_plan
from cmexport.targets.base import LoweringOptions
from cmexport.targets.registry import target_named
from cmexport.threads import use_threads

Ep = Annotated[
    str,
    typer.Option(
        "--ep",
        metavar="NAME",
        help="Execution provider to shape the graph for: cpu, cuda, arm, web, openvino, xnnpack, "
        "qnn, coreml, nnapi. All but cpu and cuda get plain ONNX operators.",
    ),
]
Simplify = Annotated[
    bool, typer.Option("--simplify", help="Let onnxsim rewrite the finished file, before it is verified.")
]
BudgetDb = Annotated[
    float | None,
    typer.Option("--budget-db", metavar="DB", help="int8: the fewest layers in float whose pictures keep this PSNR."),
]
BudgetLatency = Annotated[
    float | None,
    typer.Option(
        "--budget-latency", metavar="R", help="int8: the best pictures within R of the float32 file's time, measured."
    ),
]


def command(
    checkpoint: o.Checkpoint = None,
    out: o.Out = Path("out"),
    fp16: o.Fp16 = False,
    int8: o.Int8 = False,
    w8: o.W8 = False,
    w4: o.W4 = False,
    plan: o.Plan = None,
    budget_db: BudgetDb = None,
    budget_latency: BudgetLatency = None,
    precision: o.Precision = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    sampler: o.Sampler = "consistency",
    task: o.Tasks = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    labels: o.Labels = None,
    batch: o.Batch = 1,
    output: o.Output = "float",
    ep: Ep = "cpu",
    rewrites: o.Rewrites = "all",
    simplify: Simplify = False,
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
    """Export a checkpoint to ONNX: noise in, picture out, checked against PyTorch.

    Writes the folder OUT/<name>-onnx-<precision>/ with model.onnx, manifest.json and preview.png. A file that fails its
    parity gate is kept as *.rejected and the exit code is 4. Several tasks (--task generate,inpaint) make a file
    each.
    """
    use_threads(threads)
    target = target_named("onnx")
    int8 = int8 or plan is not None or budget_db is not None or budget_latency is not None
    flags = {"fp16": fp16, "int8": int8, "w8": w8, "w4": w4}
    chosen = o.choose_precision(precision, flags, target.precisions)
    check_budgets(chosen, budget_db, budget_latency)
    if simplify:
        onnxsim()  # Missing, it is missed now and not after minutes of calibration.
    result = export_checkpoint(
        checkpoint,
        out,
        "onnx",
        LoweringOptions(
            precision=chosen,
            ep=ep,
            rewrites=rewrites,
            simplify=simplify,
            plan=None if plan is None else read_plan(plan),
            budget_db=budget_db,
            budget_latency=budget_latency,
        ),
        o.ScheduleText(steps, timesteps, levels, sigmas),
        tasks=task,
        sampler=sampler,
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
    show_frontier(result, as_json)
    show_export(result, as_json)
    check_latency(result)
