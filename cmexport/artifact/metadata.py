"""The manifest's facts as flat strings, for a model file that has lost its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence

from cmexport.artifact.manifest import Manifest
from cmexport.artifact.parity_record import ParityRecord
from cmexport.signature import Input, Output

PREFIX = "cmexport."


def _tensors(tensors: Sequence[Input | Output]) -> str:
    return "; ".join(f"{t.name} {t.dtype} {'x'.join(map(str, t.shape))}: {t.meaning}" for t in tensors)


def _numbers(values: Sequence[float]) -> str:
    # repr, not %g: these are float64 constants and must come back as the same bits.
    return ",".join(repr(value) for value in values)


def metadata_props(manifest: Manifest) -> dict[str, str]:
    """Facts for ONNX `metadata_props` and Core ML user metadata, every key prefixed `cmexport.`.

    Left out on purpose: `files` (a file can't hold its own hash), `created` and the seconds that verification took
    (the same export gives the same bytes), `checkpoint.path` (a folder of the author's machine). When the manifest
    has a parity record, its outcome and the last rung's figures are there.
    """
    checkpoint, sampling, border = manifest.checkpoint, manifest.sampling, manifest.signature
    evaluations = sampling.evaluations
    facts = {
        "schema_version": str(manifest.schema_version),
        "version": manifest.cmexport_version,
        "name": manifest.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "task": manifest.task,
        "patch": _or_none(manifest.patch),
        "checkpoint.file": checkpoint.file,
        "checkpoint.format": checkpoint.format,
        "checkpoint.sha256": checkpoint.sha256,
        "checkpoint.license": checkpoint.license or "unknown",
        "checkpoint.parameters": str(checkpoint.parameters),
        "checkpoint.architecture": json.dumps(checkpoint.architecture),
        "sampling.sampler": sampling.sampler,
        "sampling.steps": str(len(evaluations)),
        "sampling.sigmas": _numbers(sampling.sigmas),
        "sampling.c_skip": _numbers([e.c_skip for e in evaluations]),
        "sampling.c_out": _numbers([e.c_out for e in evaluations]),
        "sampling.c_in": _numbers([e.c_in for e in evaluations]),
        "sampling.c_noise": _numbers([e.c_noise for e in evaluations]),
        "sampling.noise_std": _numbers([e.noise_std for e in evaluations]),
        "sampling.sigma_min": repr(sampling.sigma_min),
        "sampling.sigma_max": repr(sampling.sigma_max),
        "sampling.sigma_data": repr(sampling.sigma_data),
        "sampling.rho": repr(sampling.rho),
        "sampling.levels": str(sampling.levels),
        "sampling.precond": sampling.precond,
        "sampling.c_noise_rule": sampling.c_noise,
        "sampling.renoise": sampling.renoise,
        "sampling.clamp": "true" if sampling.clamp else "false",
        "label": "input" if manifest.label is None and manifest.classes else _or_none(manifest.label),
        "classes": _or_none(manifest.classes),
        **({} if manifest.labels is None else {"labels": json.dumps(manifest.labels, ensure_ascii=False)}),
        "inputs": _tensors(border.inputs),
        "outputs": _tensors([border.output]),
        "numerics": json.dumps(manifest.numerics),
        "rewrites": json.dumps({r.name: r.max_relative_error for r in manifest.rewrites if r.applied}, allow_nan=False),
        "tools": ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items())),
    }
    if manifest.assumed:
        facts["assumed"] = "; ".join(f"{a.option.removeprefix('--set ')} ({a.origin})" for a in manifest.assumed)
    if manifest.simplification is not None:
        facts["simplification"] = json.dumps(manifest.simplification.model_dump())
    if manifest.parity is not None:
        facts["parity"] = _parity(manifest.parity)
    return {PREFIX + key: value for key, value in facts.items()}


def _parity(parity: ParityRecord) -> str:
    last = parity.rungs[-1]
    facts = parity.model_dump(include={"passed", "failed_rung", "gate_db", "applied_gate_db", "seed", "output"})
    return json.dumps({**facts, "rung": last.name, **last.difference.model_dump()})


def _or_none(number: int | None) -> str:
    return "none" if number is None else str(number)
