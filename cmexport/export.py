"""The main job: a loaded checkpoint becomes a verified artefact, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cmexport import __version__
from cmexport.artifact import (
    Manifest,
    ParityRecord,
    artifact_name,
    describe_file,
    metadata_props,
    staged_folder,
    write_manifest,
    write_preview,
)
from cmexport.artifact.manifest import (
    CheckpointRecord,
    EvaluationRecord,
    RewriteRecord,
    SamplingRecord,
    SessionRecord,
    SettingRecord,
    TensorRecord,
)
from cmexport.graph.capture import CapturedGraph, RewriteReport, capture
from cmexport.graph.exact import ExactRunner
from cmexport.graph.rewriting import apply_rewrites, select
from cmexport.graph.rewrites import REWRITES
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.parity.gates import gate_for
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.ladder import ParityReport, Rung, climb
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.schedules import SamplingPlan, plan_sampling
from cmexport.targets.base import LoweredModel, LoweringOptions
from cmexport.targets.registry import target_named

# Widening 296 M weights to float64 for one picture takes as long as the rest of the ladder; one picture then tells
# PyTorch's own error well enough.
_LARGE_MODEL = 100_000_000


@dataclass(frozen=True)
class VerifyOptions:
    """How much to verify: `pictures` seeds, in about `time_budget_s` seconds (never fewer than 8 pictures)."""

    pictures: int = 64
    seed: int = 0
    time_budget_s: float | None = 60.0


@dataclass(frozen=True)
class ExportOptions:
    """A whole export: target, lowering, verification (None skips it)."""

    target: str = "onnx"
    lowering: LoweringOptions = field(default_factory=LoweringOptions)
    verify: VerifyOptions | None = field(default_factory=VerifyOptions)


@dataclass(frozen=True)
class Progress:
    """Callbacks for long work: `step(name)` for stages, `pictures(rung, done, total)` while verifying."""

    step: Callable[[str], None] = lambda _: None
    pictures: Callable[[str, int, int], None] = lambda _name, _done, _total: None


@dataclass(frozen=True)
class ExportResult:
    """What was written: the folder (named `*.rejected` when parity failed), its manifest and the parity report."""

    folder: Path
    manifest: Manifest
    parity: ParityReport | None


def export_model(
    model: ConsistencyModel,
    request: SampleRequest,
    options: ExportOptions,
    out: Path,
    progress: Progress | None = None,
) -> ExportResult:
    """Capture, rewrite, lower, verify and write one artefact under `out`.

    The folder appears whole or not at all. When a parity gate fails the artefact is kept under the name
    `<folder>.rejected`; the caller decides on the exit code.

    Raises:
        UsageError: an option contradicts the model.
        BackendError: a library is missing or refuses the graph.
        OutputError: `out` can't be written.
    """
    tell = progress or Progress()
    target = target_named(options.target)
    plan = plan_sampling(model, request.sigmas)
    rewrites = select(REWRITES, _general_names(options.lowering.rewrites))
    final = out / artifact_name(model.source.path.stem, target.name, options.lowering.precision)
    with staged_folder(final) as staged:
        tell.step("capture")
        captured = capture(model, plan, request)
        rewritten = apply_rewrites(captured, rewrites, tell.step)
        lowered = target.lower(rewritten, options.lowering, staged.path, tell.step)
        parity = None
        if options.verify is not None:
            tell.step("verify")
            rungs = target.rungs(staged.path, lowered.files, lowered.session)
            parity = verify_rungs(model, plan, request, captured, rungs, options, tell)
        manifest = _describe(model, request, plan, captured, rewritten.rewrites, lowered, options, parity)
        target.stamp(staged.path, lowered.files, metadata_props(manifest))
        files = [describe_file(staged.path, staged.path / f, "model" if i == 0 else "weights")
                 for i, f in enumerate(lowered.files)]
        if parity is not None:
            write_preview(staged.path / "preview.png", parity.preview.reference, parity.preview.candidate)
            files.append(describe_file(staged.path, staged.path / "preview.png", "preview"))
        manifest = manifest.model_copy(update={"files": tuple(files)})
        write_manifest(staged.path, manifest)
        if parity is not None and not parity.passed:
            staged.reject()
    return ExportResult(folder=staged.final, manifest=manifest, parity=parity)


def _general_names(requested: str) -> str:
    """`--rewrites` names both general and target rewrites; each registry takes its own."""
    if requested in ("all", "none", ""):
        return requested
    known = {rewrite.name for rewrite in REWRITES}
    return ",".join(n for n in (name.strip() for name in requested.split(",")) if n in known) or "none"


def verify_rungs(
    model: ConsistencyModel,
    plan: SamplingPlan,
    request: SampleRequest,
    captured: CapturedGraph,
    rungs: tuple[Rung, ...],
    options: ExportOptions,
    progress: Progress,
) -> ParityReport:
    """Climb the ladder: PyTorch float32, float64 on a few pictures, then every rung of the target."""
    verify = options.verify or VerifyOptions()
    return climb(
        Rung("PyTorch float32", partial(TorchRunner, model, plan, request)),
        rungs,
        draw_inputs(captured.inputs, captured.classes, verify.pictures, verify.seed),
        gate_for(options.lowering.precision),
        exact=Rung("PyTorch float64", partial(ExactRunner, captured)),
        exact_pictures=1 if model.parameters > _LARGE_MODEL else 4,
        time_budget_s=verify.time_budget_s,
        progress=progress.pictures,
    )


def _describe(
    model: ConsistencyModel,
    request: SampleRequest,
    plan: SamplingPlan,
    captured: CapturedGraph,
    rewrites: tuple[RewriteReport, ...],
    lowered: LoweredModel,
    options: ExportOptions,
    parity: ParityReport | None,
) -> Manifest:
    source, noise = model.source, model.noise
    return Manifest(
        schema_version=1,
        cmexport_version=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        name=source.path.stem,
        target=options.target,
        precision=options.lowering.precision,
        task="generate",
        files=(),
        checkpoint=CheckpointRecord(
            file=source.path.name,
            path=str(source.path),
            format=source.format,
            sha256=source.sha256,
            bytes=source.size_bytes,
            architecture=dict(model.architecture),
            parameters=model.parameters,
            settings=tuple(
                SettingRecord(name=s.name, value=s.value, origin=s.origin, ambiguous=s.ambiguous)
                for s in model.settings
            ),
        ),
        sampling=SamplingRecord(
            sigmas=plan.sigmas,
            evaluations=tuple(EvaluationRecord(**_fields(e)) for e in plan.evaluations),
            sigma_min=noise.sigma_min,
            sigma_max=noise.sigma_max,
            sigma_data=noise.sigma_data,
            rho=noise.rho,
            levels=noise.levels,
            precond=model.preconditioning,
            c_noise=model.c_noise,
            renoise=plan.renoise,
            clamp=plan.clamp,
        ),
        label=request.label,
        classes=model.conditioning.classes,
        inputs=tuple(TensorRecord.of_input(s) for s in captured.inputs),
        outputs=tuple(TensorRecord.of_output(s) for s in captured.outputs),
        precision_plan=dict(lowered.precision_plan),
        rewrites=tuple(_rewrite_record(r) for r in (*rewrites, *lowered.rewrites)),
        parity=None if parity is None else ParityRecord.from_report(parity),
        tools=dict(lowered.tools),
        session=SessionRecord(
            ep=str(lowered.session.get("ep", "")),
            options={k: v for k, v in lowered.session.items() if k != "ep"},
        ),
    )


def _fields(evaluation: Any) -> dict[str, float]:
    return {name: getattr(evaluation, name) for name in EvaluationRecord.model_fields}


def _rewrite_record(report: RewriteReport) -> RewriteRecord:
    return RewriteRecord(
        name=report.name,
        applied=bool(report.applied),
        parameters_removed=report.parameters_removed,
        nodes_removed=report.nodes_removed,
        max_relative_error=report.max_relative_error,
        note=report.note,
    )
