"""The ARM build of ONNX Runtime, emulated, runs the runner and draws PyTorch's pictures. No time is taken from it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cmexport.bench.folder import job_folder
from cmexport.bench.lines import parse_line
from cmexport.bench.outcome import JobOutcome, parity_record
from cmexport.parity.gates import gate_for
from cmexport.parity.inputs import draw_inputs

ROOT = os.environ.get("CMEXPORT_AARCH64_ROOT", "")
pytestmark = pytest.mark.skipif(
    not (Path(ROOT) / "python").is_file() or not ROOT,
    reason="no ARM Python: make system",
)


class Noise(CalibrationDataReader):
    def __init__(self, job):
        self._runs = iter(draw_inputs(job.signature, 32, seed=1000))

    def get_next(self):
        return next(self._runs, None)


@pytest.fixture(scope="module")
def int8(jobs, tmp_path_factory):
    """Weights and activations signed (S8S8): what ARM's dot products take, and what phones' files use."""
    job, folder = jobs[0], tmp_path_factory.mktemp("int8")
    model = str(job.folder / job.files[0])
    prepared = str(folder / "prepared.onnx")
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        folder / "model.onnx",
        Noise(job),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    nodes = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    assert nodes.count("QuantizeLinear") > 10
    expected = replace(job.expected, gate_db=gate_for("int8"))
    artifact = job.artifact.model_copy(update={"precision": "int8"})
    return replace(job, folder=folder, files=("model.onnx",), expected=expected, artifact=artifact)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_parity_on_arm(precision, jobs, int8, quick, runner, tmp_path):
    job = {"fp32": jobs[0], "int8": int8}[precision]
    job_folder(job, replace(quick, min_runs=1, warmup=0), "alone").write(tmp_path)
    done = subprocess.run(
        [f"{ROOT}/python", str(runner), str(tmp_path)], capture_output=True, stdin=subprocess.DEVNULL, timeout=250
    )
    outcome = JobOutcome()
    for line in done.stdout.splitlines():
        outcome.add(parse_line(line))
    assert outcome.done, (outcome.failure, done.stderr[-500:])
    assert outcome.meta.device.os.endswith("aarch64")
    found = parity_record(job, outcome.outputs, 0, "")
    assert found.passed, found
    print(f"\n{precision} on aarch64: {found.mean_db} dB over {found.pictures} pictures, gate {found.gate_db}")
