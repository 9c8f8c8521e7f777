"""Fixtures: a tiny random network, lowered to typed ONNX once for each request; the library, where it is installed."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util
import sys
from dataclasses import dataclass

import onnx
import pytest
from support.eight_bits import quick_calibration
from support.networks import Exported, model_around, random_weights, tiny_config

from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.sampling.methods import resolve
from cmexport.targets.tensorrt.info import TensorRtOptions
from cmexport.targets.tensorrt.lower import lower
from cmexport.targets.tensorrt.target import TensorRtTarget

HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


@dataclass(frozen=True)
class Written(Exported):
    @property
    def path(self):
        return self.folder / self.lowered.files[0]

    @property
    def proto(self):
        return onnx.load(self.path)

    @property
    def rungs(self):
        return TensorRtTarget().rungs(self.folder, self.lowered.files, self.lowered.session)


@pytest.fixture
def rtx():
    """TensorRT for RTX as cmexport finds it."""
    pytest.importorskip("tensorrt_rtx")
    from cmexport.targets.tensorrt.library import require_library

    return require_library("rtx")


@pytest.fixture
def no_tensorrt(monkeypatch):
    """A machine without any TensorRT."""
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="session")
def tiny_model():
    return model_around(random_weights(AdmUnet(tiny_config(10)), 0), 8, 10)


@pytest.fixture(scope="session")
def captured(tiny_model):
    """A function: the tiny network's graph for a request, after the rewrites."""
    made = {}

    def run(request=None):
        request = request or SampleRequest()
        if request not in made:
            graph = capture(resolve(tiny_model, request))
            made[request] = apply_rewrites(graph, REWRITES)
        return made[request]

    return run


@pytest.fixture(autouse=True, scope="session")
def _quick_calibration():
    with quick_calibration():
        yield


@pytest.fixture(scope="session")
def shared_export(tiny_model, captured, tmp_path_factory):
    """A function: the tiny network as typed ONNX in a precision, written once for all tests that only read it."""
    made = {}

    def run(precision="fp32"):
        if precision not in made:
            folder = tmp_path_factory.mktemp(precision)
            with pytest.MonkeyPatch.context() as patch:
                for name in ("tensorrt_rtx", "tensorrt"):
                    patch.setitem(sys.modules, name, None)
                lowered = lower(captured(), TensorRtOptions(precision=precision), folder, lambda _: None)
            made[precision] = Written(tiny_model, SampleRequest(), captured(), lowered, folder)
        return made[precision]

    return run


@pytest.fixture
def export(tiny_model, captured, tmp_path, no_tensorrt):
    """A function: the tiny network as typed ONNX, without an engine."""

    def run(precision="fp32", request=None, **options):
        request = request or SampleRequest()
        lowered = lower(captured(request), TensorRtOptions(precision=precision, **options), tmp_path, lambda _: None)
        return Written(tiny_model, request, captured(request), lowered, tmp_path)

    return run
