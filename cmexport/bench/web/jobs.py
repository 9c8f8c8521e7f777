"""A job as the page is offered it."""

from __future__ import annotations

from dataclasses import replace

from cmexport.bench.devices.base import BenchJob, MeasureOptions
from cmexport.bench.folder import job_folder
from cmexport.bench.web.session import ServedFile, ServedJob


def served_job(job: BenchJob, provider: str, options: MeasureOptions) -> ServedJob:
    """Files below the job: the model from the artefact's folder; `job.json`, inputs, expected picture from memory."""
    folder = job_folder(job, replace(options, provider=provider), "alone", self_test=True)
    return ServedJob(
        name=job.artifact.name,
        precision=job.artifact.precision,
        provider=provider,
        optional=options.provider == "auto" and provider == "webgpu",
        files={path: ServedFile(content) for path, content in folder.files.items()},
        model_files=tuple(f"model/{name}" for name in job.files),
    )
