"""An artefact made ready to be run anywhere: facts, inputs, and the pictures it must give."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from cmexport.artifact import Manifest, read_manifest
from cmexport.bench.devices.base import BenchJob, ExpectedPictures, MeasureOptions
from cmexport.bench.schema import ArtifactRecord
from cmexport.errors import CmexportError, UsageError
from cmexport.parity.gates import byte_gate, gate_of
from cmexport.parity.inputs import VerificationInputs, draw_inputs
from cmexport.progress import Progress
from cmexport.recorded import artifact_rungs, checkpoint_of, request_of
from cmexport.runner import Array
from cmexport.sources import PictureSource, run_all, source_from_model


def prepare_job(folder: Path, options: MeasureOptions, progress: Progress, task: str | None = None) -> BenchJob:
    """Read an artefact, draw its inputs and the pictures that PyTorch gives for them.

    Where the checkpoint is not at hand, the artefact itself on this machine's runtime is the reference.

    Raises:
        CheckpointError: the artefact is damaged.
        UsageError: it has no graph named `task`, or is in parts.
    """
    manifest = read_manifest(folder).function(task)
    if len(manifest.graphs) > 1:
        names = ", ".join(graph.name for graph in manifest.graphs)
        raise UsageError(
            f"{folder}: is in parts ({names}), and bench measures one graph; export with --packaging one to measure it"
        )
    files = tuple(f.path for f in manifest.files if f.role in ("model", "weights"))
    signature = manifest.signature
    drawn = draw_inputs(signature, options.pictures, options.seed)
    return BenchJob(
        artifact=artifact_record(folder, manifest),
        folder=folder,
        files=files,
        signature=signature,
        runs=tuple(drawn),
        expected=_expected(folder, manifest, drawn, progress),
        session={"ep": manifest.session.ep, **manifest.session.options},
    )


def artifact_record(folder: Path, manifest: Manifest) -> ArtifactRecord:
    """Facts about an artefact, or about one graph of it."""
    parts = sorted((f.path, f.sha256, f.bytes) for f in manifest.files if f.role in ("model", "weights"))
    listing = "".join(f"{sha}  {path}\n" for path, sha, _ in parts)
    name = folder.resolve().name
    several = "function" in manifest.session.options
    return ArtifactRecord.known(
        "",
        name=f"{name}:{manifest.task}" if several else name,
        sha256=parts[0][1] if len(parts) == 1 else hashlib.sha256(listing.encode()).hexdigest(),
        size_bytes=sum(size for _, _, size in parts),
        target=manifest.target,
        precision=manifest.precision,
        steps=len(manifest.sampling.evaluations),
        task=manifest.task,
        batch=request_of(manifest).batch,
        checkpoint_sha256=manifest.checkpoint.sha256,
        sampler=manifest.sampling.sampler,
    )


def check_names(jobs: list[BenchJob]) -> None:
    """Refuse artefacts that a table couldn't tell apart.

    Raises:
        UsageError: two have one name.
    """
    names = [job.artifact.name for job in jobs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice}: two artefacts have this name; rename one folder, so that records tell them apart")


def _expected(
    folder: Path, manifest: Manifest, drawn: VerificationInputs, progress: Progress
) -> ExpectedPictures | str:
    gate = gate_of(manifest.precision, manifest.numerics)
    try:
        reference, images = _pictures(folder, manifest, drawn, progress)
    except CmexportError as error:
        return f"no reference pictures: {str(error).splitlines()[0]}"[:500]
    return ExpectedPictures(reference, np.asarray(images), byte_gate(gate) if drawn.signature.output.is_bytes else gate)


def _pictures(folder: Path, manifest: Manifest, drawn: VerificationInputs, progress: Progress) -> tuple[str, Array]:
    name = folder.resolve().name
    progress.step(f"{name}: reference pictures")
    tell = partial(progress.pictures, "reference")
    try:
        model = checkpoint_of(manifest, None, {})
    except CmexportError:
        shipped = artifact_rungs(folder, manifest)[-1]
        source = PictureSource(drawn.signature, shipped.open, request_of(manifest))
        said = f"{shipped.name} on the host, the same artefact (its checkpoint is not at hand)"
        return said, run_all(source, drawn, len(drawn), tell)
    source = source_from_model(model, request_of(manifest))
    said = f"PyTorch float32 on the host, checkpoint {manifest.checkpoint.sha256[:12]}"
    return said, run_all(source, drawn, len(drawn), tell)
