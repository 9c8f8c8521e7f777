"""`cmexport tensorrt [CKPT]`: typed ONNX, and engines for it, also on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmexport.cli import console
from cmexport.cli import options as o
from cmexport.cli.engines import engine_lines
from cmexport.cli.exporting import export_checkpoint
from cmexport.cli.showing import show_export, show_kept
from cmexport.errors import UsageError
from cmexport.quantize.precision_plan import read_plan
from cmexport.targets.base import LoweringOptions
from cmexport.targets.registry import target_named
from cmexport.targets.tensorrt.batches import captured_first, parse_batches
from cmexport.threads import use_threads

Trt = Annotated[
    str,
    typer.Option(
        "--trt",
        metavar="auto|rtx|10|11",
        help="Which TensorRT builds: TensorRT for RTX, or TensorRT 10.12+ or 11. Without any: typed ONNX only.",
    ),
]
Sm = Annotated[
    str | None,
    typer.Option(
        "--sm",
        metavar="N,..",
        help="TensorRT for RTX: compute capabilities to build for, 75,80,86,89,120. Default: all from 80.",
    ),
]
Compat = Annotated[
    str | None,
    typer.Option(
        "--compat", metavar="version,hardware", help="Engines for later versions, and for other GPUs (TensorRT 10, 11)."
    ),
]
TimingCache = Annotated[
    Path | None,
    typer.Option("--timing-cache", metavar="FILE", help="Measured kernel times, read and written (TensorRT 10, 11)."),
]
Strip = Annotated[bool, typer.Option("--strip", help="An engine without weights; they come from the ONNX at loading.")]
Refit = Annotated[bool, typer.Option("--refit", help="An engine whose weights can be replaced.")]
Batches = Annotated[
    str, typer.Option("--batch", metavar="N[,N..]", help="Pictures per run; several: an ONNX file and engine for each.")
]


def command(
    checkpoint: o.Checkpoint = None,
    out: o.Out = Path("out"),
    fp16: o.Fp16 = False,
    bf16: o.Bf16 = False,
    int8: o.Int8 = False,
    fp8: o.Fp8 = False,
    precision: o.Precision = None,
    plan: o.Plan = None,
    trt: Trt = "auto",
    sm: Sm = None,
    compat: Compat = None,
    strip: Strip = False,
    refit: Refit = False,
    timing_cache: TimingCache = None,
    steps: o.Steps = None,
    timesteps: o.Timesteps = None,
    levels: o.Levels = None,
    sigmas: o.Sigmas = None,
    task: o.Tasks = "generate",
    patch: o.Patch = None,
    label: o.Label = None,
    labels: o.Labels = None,
    batch: Batches = "1",
    output: o.Output = "float",
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
    """Export a checkpoint to typed ONNX for TensorRT and, where one is installed, to an engine.

    Writes the folder OUT/<name>-tensorrt-<precision>/ with model.onnx, model.engine, model.layers.json, manifest.json
    and preview.png. The ONNX file is compared with PyTorch in ONNX Runtime, the engine too where the GPU in this
    machine can run it; what fails its parity gate is kept as *.rejected and the exit code is 4.
    """
    use_threads(threads)
    target = target_named("tensorrt")
    flags = {"fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8}
    batches = captured_first(parse_batches(batch))
    lowering = LoweringOptions(
        precision=o.choose_precision(precision, flags, target.precisions),
        keep_fp32=o.keep_names(keep_fp32),
        rewrites=rewrites,
        plan=None if plan is None else read_plan(plan),
        trt=trt,
        sms=_sms(sm),
        compat=() if compat is None else tuple(part.strip() for part in compat.split(",")),
        refit=refit,
        strip=strip,
        timing_cache=timing_cache,
        batches=batches,
    )
    target.rewrites_for(lowering)  # a wrong option or a missing library is said before a checkpoint is read
    result = export_checkpoint(
        checkpoint,
        out,
        "tensorrt",
        lowering,
        o.ScheduleText(steps, timesteps, levels, sigmas),
        tasks=task,
        patch=patch,
        label=label,
        labels=labels,
        batch=batches[0],
        output=output,
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
    for line in engine_lines(result.folder, result.manifest):
        console.say(line, quiet=as_json)
    show_export(result, as_json)


def _sms(text: str | None) -> tuple[int, ...]:
    """Compute capabilities as typed, 86 or 8.6; in ascending order.

    Raises:
        UsageError: one is no number.
    """
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if not part.replace(".", "", 1).isdigit()]:
        raise UsageError(f"--sm {wrong[0]}: give compute capabilities with commas between: 86,120")
    return tuple(sorted({int(part.replace(".", "")) for part in parts}))
