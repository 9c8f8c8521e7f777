"""Engines that can't be run: each gets its sentence. Running one takes a GPU; `benchmarks/cuda_onnx.py` does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cmexport.errors import BackendError, CheckpointError
from cmexport.targets.tensorrt.checking import why_not_run
from cmexport.targets.tensorrt.library import Library
from cmexport.targets.tensorrt.runner import EngineRunner, check_engine, refusal

RTX = Library(SimpleNamespace(), "1.7.1.116", rtx=True)
TEN = Library(SimpleNamespace(), "10.13.2", rtx=False)


@pytest.fixture
def engine(tmp_path):
    """A function: a file with the header of TensorRT for RTX."""

    def write(version=(1, 7, 1, 116), bits=0b10100):
        head = bytearray(100)
        head[:4], head[16:24] = b"vtrt", (100).to_bytes(8, "little")
        head[24:28], head[32:40] = bytes(version), bits.to_bytes(8, "little")
        path = tmp_path / "model.engine"
        path.write_bytes(head)
        return path

    return write


@pytest.fixture
def gpu(monkeypatch):
    """A function: pretend that there is a GPU of this compute capability."""

    def pretend(major, minor):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Something")

    return pretend


def test_an_engine_of_another_version_is_refused_without_a_gpu(engine):
    path = engine(version=(1, 6, 0, 3))
    for library in (RTX,):
        with pytest.raises(BackendError, match=r"made by TensorRT for RTX 1.6.0.3, and this is 1.7.1.116"):
            EngineRunner(library, path)
    check_engine(RTX, path, any_version=True)
    check_engine(RTX, engine())


def test_an_engine_of_another_kind_is_refused(engine, tmp_path):
    with pytest.raises(BackendError, match=r"made by TensorRT for RTX, and this is TensorRT 10.13.2"):
        check_engine(TEN, engine())
    (tmp_path / "plan.engine").write_bytes(b"ptrt" + bytes(100))
    with pytest.raises(BackendError, match="made by TensorRT 10 or 11, and this is TensorRT for RTX"):
        check_engine(RTX, tmp_path / "plan.engine")


def test_a_damaged_engine_is_refused(engine):
    path = engine()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged: 99 bytes"):
        EngineRunner(RTX, path)


def test_another_gpu_is_refused(engine, gpu):
    gpu(9, 0)
    with pytest.raises(BackendError, match=r"not for this machine's NVIDIA Something \(9.0\), only for .* 8.6, 12.0"):
        check_engine(RTX, engine())
    gpu(8, 6)
    check_engine(RTX, engine())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_sentence(engine):
    with pytest.raises(BackendError, match="runs on an NVIDIA GPU, with a PyTorch for CUDA; there is none here"):
        EngineRunner(RTX, engine())


def test_why_an_engine_is_not_run_here(engine, gpu, no_tensorrt, monkeypatch):
    assert why_not_run(engine(), {}) == "no TensorRT is installed"
    monkeypatch.setattr("cmexport.targets.tensorrt.checking.find_library", lambda _: RTX)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_run(engine(), {}) == "no NVIDIA GPU here that PyTorch can use"
    gpu(8, 6)
    assert why_not_run(engine(), {}) is None
    old = engine(version=(1, 6, 0, 3))
    assert why_not_run(old, {}).startswith("made by TensorRT for RTX 1.6.0.3")
    assert why_not_run(old, {"engines": [{"file": "model.engine", "compatibility": ["version"]}]}) is None
    assert why_not_run(old, {"engines": [{"file": "other.engine", "compatibility": ["version"]}]}) is not None


@pytest.mark.parametrize(
    ("message", "said"),
    [
        # Of TensorRT 10 and of TensorRT for RTX, which each have their own words for the same.
        ("The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.6, please "
         "rebuild: different device", "not built for this GPU"),
        ("kCOMPUTE: Target GPU compute capability 9.0 is not supported", "not built for this GPU"),
        ("Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match.",
         "built by another version than TensorRT for RTX 1.7.1.116"),
        ("Serialization assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.", "damaged, or no engine"),
        ("cudaError 35: CUDA driver version is insufficient for CUDA runtime version", "newer NVIDIA driver"),
        ("Something new\nand a second line", "refuses it on H100: Something new"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_sentence(message, said):
    sentence = refusal([message], RTX, "H100")
    assert said in sentence
    assert len(sentence.splitlines()) == 1
    assert refusal([], RTX, "H100").endswith("it gave no reason")
