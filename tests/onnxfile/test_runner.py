"""Opening and running files, and the messages when that fails."""

from __future__ import annotations

import numpy as np
import pytest

from cmexport.errors import BackendError, CheckpointError
from cmexport.onnxfile.runner import OnnxRuntimeRunner

SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}


@pytest.fixture
def exported(export):
    return export(**SMALL)


@pytest.mark.parametrize("optimization", ["none", "all"])
def test_arrays_by_name_in_and_out(exported, optimization):
    inputs = exported.inputs()
    with OnnxRuntimeRunner(exported.path, optimization, threads=1) as run:
        first, second = run(inputs), run(inputs)
    assert list(first) == ["image"]
    assert first["image"].shape == (1, 3, 8, 8)
    np.testing.assert_array_equal(first["image"], second["image"])


def test_leaving_frees_the_session(exported):
    with OnnxRuntimeRunner(exported.path, threads=1) as run:
        assert run._session is not None
    assert run._session is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.onnx: ONNX Runtime can't load this file: ") as caught:
        OnnxRuntimeRunner(tmp_path / "nowhere.onnx")
    assert caught.value.exit_code == 3
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_damaged_file_is_named(exported, tmp_path, damage):
    path = tmp_path / "broken.onnx"
    whole = exported.path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not a model\n" * 100, "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(CheckpointError, match=r"broken\.onnx: ONNX Runtime can't load this file: "):
        OnnxRuntimeRunner(path)


def test_a_missing_provider_is_named_before_the_file_is_read(tmp_path):
    with pytest.raises(BackendError, match=r"MadeUpExecutionProvider is not in this ONNX Runtime .*CPUExecution") as e:
        OnnxRuntimeRunner(tmp_path / "nowhere.onnx", providers=("MadeUpExecutionProvider",))
    assert e.value.exit_code == 5


def test_wrong_inputs_are_a_backend_error(exported):
    inputs = exported.inputs()
    with OnnxRuntimeRunner(exported.path, threads=1) as run:
        with pytest.raises(BackendError, match="ONNX Runtime failed while running"):
            run({"noise": inputs["noise"]})
        with pytest.raises(BackendError, match="ONNX Runtime failed while running"):
            run({**inputs, "noise": inputs["noise"][:, :, :4]})
