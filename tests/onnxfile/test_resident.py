"""Predicted memory against what a process of its own really takes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cmexport.errors import BackendError
from cmexport.onnxfile import resident, runner
from cmexport.onnxfile.one_weights_file import gather_weights
from cmexport.onnxfile.resident import measured_peak, predicted_peak
from cmexport.onnxfile.runner import OnnxRuntimeRunner, has_large_weights

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell a process its memory")
SIDE, LAYERS = 1000, 12


def products(path, dtype=np.float32, layers=LAYERS, rows=64):
    """Products of 4 MB of float32 weights each."""
    kind = TensorProto.FLOAT if dtype == np.float32 else TensorProto.FLOAT16
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array((rng.standard_normal((SIDE, SIDE)) / 40).astype(dtype), f"w{i}") for i in range(layers)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(layers)]
    border = [helper.make_tensor_value_info(f"x{i}", kind, [rows, SIDE]) for i in (0, layers)]
    inside = [helper.make_tensor_value_info(f"x{i}", kind, [rows, SIDE]) for i in range(1, layers)]
    graph = helper.make_graph(nodes, "g", border[:1], border[1:], weights, value_info=inside)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path, {"x0": np.ones((rows, SIDE), dtype)}


@linux
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("beside", [False, True])
def test_weights_inside_and_beside(tmp_path, dtype, beside):
    path, inputs = products(tmp_path / "p.onnx", dtype)
    if beside:
        gather_weights([path], tmp_path / "weights.bin")
    found = measured_peak(path, inputs)
    assert found.peak >= found.loaded > SIDE * SIDE * 4 * LAYERS * 0.9
    # Of a file beside, the system counts the pages that it has not taken back: 67 to 79 MB of the same one.
    assert predicted_peak(path) == pytest.approx(found.peak, rel=0.3)


@linux
def test_the_demo_within_15_percent(demo, tmp_path):
    file = demo("fp32")
    found = measured_peak(file.path, file.inputs())
    assert predicted_peak(file.path) == pytest.approx(found.peak, rel=0.15)


def test_a_failing_process_is_a_backend_error(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(BackendError, match=r"x\.onnx: ONNX Runtime failed while its memory was measured: .*load"):
        measured_peak(tmp_path / "x.onnx", {"x": np.zeros(1)})


def test_too_slow_is_a_backend_error(monkeypatch, tmp_path):
    def late(*_, **options):
        raise subprocess.TimeoutExpired("x", options["timeout"])

    monkeypatch.setattr(resident.subprocess, "run", late)
    with pytest.raises(BackendError, match=r"x\.onnx: measuring its memory took more than 5 s"):
        measured_peak(tmp_path / "x.onnx", {}, timeout_s=5)


def test_where_nobody_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(resident, "_STATUS", tmp_path / "status")
    assert measured_peak(tmp_path / "x.onnx", {}) is None


def test_files_of_large_weights_have_no_plan(monkeypatch, tmp_path):
    path, inputs = products(tmp_path / "p.onnx", layers=1)
    alone = tmp_path / "alone"
    alone.mkdir()
    inside, _ = products(alone / "p.onnx", layers=1)
    gather_weights([path], tmp_path / "weights.bin")
    assert not has_large_weights(path)
    before = predicted_peak(path)
    monkeypatch.setattr(runner, "LARGE_WEIGHTS_BYTES", 1_000_000)
    assert has_large_weights(path)
    assert not has_large_weights(inside), "its weights are inside"
    (alone / "other.bin").write_bytes(bytes(2_000_000))
    assert not has_large_weights(inside), "another file's"
    assert predicted_peak(path) < before
    planned = []
    options = runner.ort.SessionOptions

    def noted():
        planned.append(options())
        return planned[-1]

    monkeypatch.setattr(runner.ort, "SessionOptions", noted)
    for model in (path, inside):
        with OnnxRuntimeRunner(model, threads=1) as run:
            assert run(inputs)["x1"].shape == (64, SIDE)
    assert [p.enable_mem_pattern for p in planned] == [False, True]
