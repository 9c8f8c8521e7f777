"""The main job: a loaded checkpoint becomes a verified artefact, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
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
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites, select
from cmexport.memory import return_free_memory
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.parity.ladder import ParityReport
from cmexport.progress import Progress
from cmexport.sampling.schedules import SamplingPlan, plan_sampling
from cmexport.targets.base import LoweredModel, LoweringOptions
from cmexport.targets.registry import target_named
from cmexport.verification import Reference, VerifyOptions, verify_rungs


@dataclass(frozen=True)
class ExportOptions:
    """A whole export: target, lowering, verification (None skips it).

    `expendable` frees the model's weights once the reference pictures are drawn: for callers that export once and
    want the smallest memory, as the command line does.
    """

    target: str = "onnx"
    lowering: LoweringOptions = field(default_factory=LoweringOptions)
    verify: VerifyOptions | None = field(default_factory=VerifyOptions)
    expendable: bool = False


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
    named = select((*REWRITES, *target.own_rewrites), options.lowering.rewrites)
    rewrites = [*(r for r in REWRITES if r in named), *target.rewrites_for(options.lowering)]
    final = out / artifact_name(model.source.path.stem, target.name, options.lowering.precision)
    with staged_folder(final) as staged:
        tell.step("capture")
        captured = capture(model, plan, request)
        rewritten = apply_rewrites(captured, rewrites, tell.step)
        lowered = target.lower(rewritten, options.lowering, staged.path, tell.step)
        account = (*rewritten.rewrites, *lowered.rewrites)
        # Folded weights would stay in memory while the ladder opens its runtimes.
        del rewritten
        return_free_memory()
        parity = None
        if options.verify is not None:
            tell.step("verify")
            rungs = target.rungs(staged.path, lowered.files, lowered.session)
            parity = verify_rungs(
                Reference(model, plan, request, captured, options.expendable),
                rungs,
                options.lowering.precision,
                options.verify,
                tell,
            )
        manifest = _describe(model, request, plan, captured, account, lowered, options, parity)
        # Only metadata is appended after verification; stamping checks the file it leaves.
        target.stamp(staged.path, lowered.files, metadata_props(manifest))
        files = [
            describe_file(staged.path, staged.path / f, "model" if i == 0 else "weights")
            for i, f in enumerate(lowered.files)
        ]
        if parity is not None:
            write_preview(staged.path / "preview.png", parity.preview.reference, parity.preview.candidate)
            files.append(describe_file(staged.path, staged.path / "preview.png", "preview"))
        manifest = manifest.model_copy(update={"files": tuple(files)})
        write_manifest(staged.path, manifest)
        if parity is not None and not parity.passed:
            staged.reject()
    return ExportResult(folder=staged.final, manifest=manifest, parity=parity)


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
        task=request.task,
        patch=request.patch,
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
            schedule=request.schedule,
        ),
        label=request.label,
        classes=model.conditioning.classes,
        inputs=tuple(TensorRecord.of_input(s) for s in captured.inputs),
        outputs=tuple(TensorRecord.of_output(s) for s in captured.outputs),
        precision_plan=dict(lowered.precision_plan),
        rewrites=tuple(_rewrite_record(r) for r in rewrites),
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
