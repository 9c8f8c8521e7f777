"""Artefacts made ready: hashes, references, and the folder that travels."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest

from cmexport.bench.folder import job_folder, model_path
from cmexport.bench.jobs import check_names, prepare_job
from cmexport.bench.outcome import parity_record
from cmexport.errors import CheckpointError, UsageError
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.gates import byte_gate
from cmexport.progress import Progress
from cmexport.runner import picture_of


def test_the_artefact_by_its_hash_and_size(jobs):
    job = jobs[0]
    content = (job.folder / "model.onnx").read_bytes()
    assert job.artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert job.artifact.size_bytes == len(content)
    assert (job.artifact.steps, job.artifact.batch, job.artifact.precision) == (1, 1, "fp32")


def test_several_files_are_hashed_as_sha256sum_lists_them(fp32, tmp_path, quick):
    folder = tmp_path / "two"
    shutil.copytree(fp32, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "weights.bin").write_bytes(b"abc")
    manifest["files"].append(
        {"path": "weights.bin", "sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3, "role": "weights"}
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    listing = subprocess.run(["sha256sum", "model.onnx", "weights.bin"], cwd=folder, capture_output=True).stdout
    found = prepare_job(folder, quick, Progress()).artifact
    assert found.sha256 == hashlib.sha256(listing).hexdigest()
    assert found.size_bytes == (folder / "model.onnx").stat().st_size + 3


def run_here(job):
    with OnnxRuntimeRunner(job.folder / job.files[0]) as run:
        return {(i, "image"): picture_of(run(inputs)) for i, inputs in enumerate(job.runs)}


def test_the_reference_is_pytorch_where_the_checkpoint_is(jobs):
    found = parity_record(jobs[0], run_here(jobs[0]), 0, "")
    assert found.reference.startswith("PyTorch float32 on the host, checkpoint ")
    assert found.passed
    assert found.pictures == 4


def test_without_the_checkpoint_the_host_stands_in_and_says_so(fp32, tmp_path, quick):
    folder = tmp_path / "alone"
    shutil.copytree(fp32, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checkpoint"]["path"] = "/nowhere/tiny.pt"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    job = prepare_job(folder, quick, Progress())
    assert "on the host, the same artefact" in job.expected.reference
    assert parity_record(job, run_here(job), 0, "").passed


def test_bytes_have_the_byte_gate(export_tiny, quick):
    job = prepare_job(export_tiny("fp32", output="uint8"), quick, Progress())
    assert job.expected.gate_db == byte_gate(100.0)
    assert job.expected.images.dtype == np.uint8
    assert parity_record(job, run_here(job), 0, "").passed


def test_pictures_that_are_missing_or_of_another_size(jobs):
    outputs = run_here(jobs[0])
    missing = parity_record(jobs[0], {}, 0, "the runner died")
    assert missing.passed is None
    assert missing.reasons["passed"] == "pictures are missing: the runner died"
    small = parity_record(jobs[0], {key: array[:, :, :4] for key, array in outputs.items()}, 0, "")
    assert "can't be compared" in small.reasons["passed"]
    broken = parity_record(jobs[0], {key: array * np.nan for key, array in outputs.items()}, 0, "")
    assert broken.passed is False
    assert broken.non_finite > 0
    assert broken.mean_db is None


def test_the_folder_holds_all_that_the_contract_names(jobs, quick):
    files = job_folder(jobs[0], quick, "served", ["/sys/x"]).files
    facts = json.loads(files["job.json"])
    assert facts["watch"] == {"files": ["/sys/x"], "interval_ms": 20}
    assert facts["model"] in files
    assert [spec["name"] for spec in facts["inputs"]] == ["noise", "label"]
    for run, inputs in zip(facts["runs"], jobs[0].runs, strict=True):
        for spec in facts["inputs"]:
            raw = np.frombuffer(files[run[spec["name"]]], dtype=np.dtype(spec["dtype"]).newbyteorder("<"))
            assert (raw.reshape(spec["shape"]) == inputs[spec["name"]]).all()


def test_packages_are_opened_as_folders():
    assert model_path(("model.onnx", "weights.bin")) == "model.onnx"
    assert model_path(("model.mlpackage/Manifest.json", "model.mlpackage/Data/x")) == "model.mlpackage"
    assert model_path(("sub/model.onnx",)) == "sub/model.onnx"


def test_names_must_tell_them_apart(jobs):
    check_names(jobs)
    with pytest.raises(UsageError, match="two artefacts have this name"):
        check_names([jobs[0], jobs[0]])


def test_damaged_artefacts_and_unknown_graphs(fp32, tmp_path, quick):
    with pytest.raises(UsageError, match="--task stroke"):
        prepare_job(fp32, quick, Progress(), "stroke")
    with pytest.raises(CheckpointError):
        prepare_job(tmp_path, quick, Progress())
