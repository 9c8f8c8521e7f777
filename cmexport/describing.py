"""What a manifest says of an export, from the nouns that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cmexport import __version__
from cmexport.artifact import Manifest, ParityRecord
from cmexport.artifact.border_record import SignatureRecord
from cmexport.artifact.manifest import (
    AssumedRecord,
    CheckpointRecord,
    EvaluationRecord,
    FunctionRecord,
    GraphRecord,
    LoraRecord,
    RewriteRecord,
    SamplingRecord,
    SessionRecord,
    SettingRecord,
    SimplificationRecord,
    TransformRecord,
    WordingRecord,
)
from cmexport.graph.capture import RewriteReport
from cmexport.graph.rewrites import fit_half
from cmexport.model import Lora
from cmexport.naming import shown_name
from cmexport.parity.ladder import ParityReport
from cmexport.sampling.gamma import gamma_of
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.transforms import transform_name, transform_of
from cmexport.signature import known
from cmexport.targets.base import LoweredModel

# What a TensorRT artefact holds besides: engines, their descriptions, and an ONNX file for each batch.
_ROLES = {".engine": "engine", ".layers.json": "layers", ".onnx": "model"}


def role_of(path: str, index: int) -> str:
    """Tell what a file is: by its ending where that tells, else the first of the lowered ones is the model."""
    known = (role for suffix, role in _ROLES.items() if path.endswith(suffix))
    return next(known, "weights" if index else "model")


def numerics_of(graphs: Mapping[str, LoweredModel]) -> dict[str, Any]:
    """Which types are used where: of the one graph, or of each by name."""
    plans = {name: dict(graph.precision_plan) for name, graph in graphs.items()}
    return next(iter(plans.values())) if len(plans) == 1 else {"graphs": plans}


def function_record(name: str, manifest: Manifest, files: tuple[str, ...]) -> FunctionRecord:
    """Take what a manifest says of one graph only."""
    fields = {f: getattr(manifest, f) for f in FunctionRecord.model_fields if f not in ("name", "files")}
    return FunctionRecord(name=name, files=files, **fields)


def describe(
    sampler: Sampler,
    graphs: Mapping[str, LoweredModel],
    account: Sequence[RewriteReport],
    target: str,
    precision: str,
    parity: ParityReport | None,
    *,
    run: str,
    self_check: tuple[str, ...] = (),
) -> Manifest:
    """Write the manifest of one run, but for the artefact's files.

    Args:
        sampler: what was exported.
        graphs: what the target made of it, by name, in the order in which they run.
        account: of every rewrite.
        target: its name.
        precision: of the file.
        parity: what comparing it with the reference gave; None: it was not compared.
        run: its name.
        self_check: see `exporting.ExportOptions`.
    """
    model, request, plan = sampler.model, sampler.request, sampler.plan
    lowered = next(iter(graphs.values()))
    source, noise = model.source, model.noise
    return Manifest(
        schema_version=2,
        cmexport_version=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        name=sampler.name,
        target=target,
        precision=precision,
        task=request.task,
        patch=request.patch,
        files=(),
        checkpoint=CheckpointRecord(
            file=shown_name(source.path),
            path=str(source.path.absolute()),
            reference=source.reference,
            format=source.format,
            sha256=source.sha256,
            bytes=source.size_bytes,
            license=source.license,
            license_origin=source.license_origin,
            architecture=dict(model.architecture),
            parameters=model.parameters,
            parts=model.parts,
            settings=tuple(
                SettingRecord(name=s.name, value=s.value, origin=s.origin, ambiguous=s.ambiguous)
                for s in model.settings
            ),
            loras=tuple(_lora_record(lora) for lora in model.loras),
        ),
        assumed=tuple(
            AssumedRecord(name=s.name, value=s.value, origin=s.origin, option=s.option) for s in model.assumed
        ),
        self_check=self_check,
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
            sampler=request.sampler,
            eta=request.eta,
            gamma=gamma_of(request),
            clip=plan.clip,
            transform=_transform_record(sampler),
        ),
        wording=wording_of(sampler),
        label=request.label,
        classes=model.classes,
        labels=model.labels or None,
        graphs=tuple(
            GraphRecord(name=name, files=graph.files, signature=SignatureRecord.of(graph.signature))
            for name, graph in graphs.items()
        ),
        runs={run: tuple(graphs)},
        numerics={**numerics_of(graphs), **_ranges(account), **_measured_gate(parity)},
        rewrites=tuple(_rewrite_record(r) for r in account),
        simplification=None if lowered.simplification is None else SimplificationRecord(**lowered.simplification),
        parity=None if parity is None else ParityRecord.from_report(parity),
        tools=dict(lowered.tools),
        session=SessionRecord(
            ep=str(lowered.session.get("ep", "")),
            options={k: v for k, v in lowered.session.items() if k != "ep"},
        ),
    )


def _measured_gate(parity: ParityReport | None) -> dict[str, Any]:
    """Return what replaced the gate of the precision, for `gates.gate_of`."""
    return {"gate_db": parity.gate_db, "gate_origin": parity.gate_origin} if parity and parity.gate_origin else {}


def _ranges(account: Sequence[RewriteReport]) -> dict[str, Any]:
    """Return what was too large for half precision, and what was done about it."""
    notes = [report.note for report in account if report.name == fit_half.REWRITE.name and report.note]
    return {"half_ranges": "; ".join(notes)} if notes else {}


def wording_of(sampler: Sampler) -> WordingRecord | None:
    """Describe what it does with prompts; None where it takes none."""
    request, worded = sampler.request, sampler.model.worded
    if worded is None:
        return None
    form = known.BAKED if request.prompt is not None else known.PROMPT if request.prompts else request.condition
    prompts = request.prompts if request.prompt is None else (request.prompt,)
    guidance = next((sampler.baked.get(c.input.name) for c in sampler.model.conditions if c.usual is not None), None)
    return WordingRecord(
        condition=form,
        prompts=prompts,
        guidance=guidance,
        guidance_input=request.guidance_input,
        calibration_prompts=request.calibration_prompts,
    )


def _lora_record(lora: Lora) -> LoraRecord:
    return LoraRecord(
        file=shown_name(lora.path),
        path=str(lora.path),
        sha256=lora.sha256,
        bytes=lora.size_bytes,
        scale=lora.scale,
        dialect=lora.dialect,
        layers=len(lora.layers),
    )


def _transform_record(sampler: Sampler) -> TransformRecord | None:
    transform, name = transform_of(sampler.model, sampler.request), transform_name(sampler.model, sampler.request)
    if transform is None or name is None:
        return None
    return TransformRecord(name=name, quantity=transform.quantity, unit=transform.unit, formula=transform.formula)


def _fields(evaluation: Any) -> dict[str, Any]:
    return {name: getattr(evaluation, name) for name in EvaluationRecord.model_fields}


def _rewrite_record(report: RewriteReport) -> RewriteRecord:
    return RewriteRecord(
        name=report.name,
        applied=bool(report.applied),
        parameters_removed=report.parameters_removed,
        nodes_removed=report.nodes_removed,
        max_relative_error=report.max_relative_error,
        note=report.note,
        measured=report.measured,
    )
