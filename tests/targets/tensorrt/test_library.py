from __future__ import annotations

import sys
from enum import Enum
from types import ModuleType

import pytest

from cmexport.errors import BackendError, UsageError
from cmexport.targets.tensorrt.library import check_sms, find_library, require_library


@pytest.fixture
def install(monkeypatch, no_tensorrt):
    """A function: pretend that a TensorRT of this version is installed."""

    def run(name, version, sms=()):
        module = ModuleType(name)
        module.__version__ = version
        if sms:
            module.ComputeCapability = Enum("ComputeCapability", ["NONE", "CURRENT", *(f"SM{sm}" for sm in sms)])
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return run


def test_nothing_installed_is_a_result_unless_something_was_asked_for(no_tensorrt):
    assert find_library("auto") is None
    with pytest.raises(BackendError, match=r"pip install 'cmexport\[tensorrt\]'"):
        find_library("rtx")
    with pytest.raises(BackendError, match=r"TensorRT 11 isn't installed: pip install tensorrt"):
        find_library("11")
    with pytest.raises(BackendError, match="no TensorRT is installed"):
        require_library()


def test_rtx_comes_first_and_others_can_be_chosen(install):
    install("tensorrt", "10.13.2.6")
    assert find_library("auto").title == "TensorRT 10.13.2.6"
    install("tensorrt_rtx", "1.7.1.116", (75, 86, 120))
    found = find_library("auto")
    assert (found.title, found.rtx, found.sms) == ("TensorRT for RTX 1.7.1.116", True, (75, 86, 120))
    assert not find_library("10").rtx


@pytest.mark.parametrize(
    ("version", "request_", "said"),
    [
        ("10.11.0", "10", "TensorRT 10.11.0 is too old"),
        ("8.6.1", "auto", "TensorRT 8.6.1 is too old"),
        ("10.12.0", "11", "--trt 11: TensorRT 10.12.0 is installed"),
        ("11.1.0", "10", "--trt 10: TensorRT 11.1.0 is installed"),
    ],
)
def test_versions_that_do_not_fit_are_refused(install, version, request_, said):
    install("tensorrt", version)
    with pytest.raises(BackendError, match=said):
        find_library(request_)


def test_an_unknown_request_is_refused():
    with pytest.raises(UsageError, match=r"--trt 9: known are auto, rtx, 10, 11"):
        find_library("9")


def test_a_library_that_does_not_load_says_why(monkeypatch, tmp_path, no_tensorrt):
    (tmp_path / "tensorrt_rtx.py").write_text("raise OSError('libnvinfer.so: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendError, match=r"installed but can't be loaded here: libnvinfer.so"):
        find_library("auto")


def test_unknown_gpus_are_refused(install):
    install("tensorrt_rtx", "1.7.1", (75, 86))
    library = find_library()
    check_sms(library, ())
    check_sms(library, (75, 86))
    with pytest.raises(BackendError, match=r"--sm 87: TensorRT for RTX 1.7.1 builds for 75, 86"):
        check_sms(library, (86, 87))


def test_tensorrt_itself_builds_for_the_gpu_at_hand(install):
    install("tensorrt", "11.0.0", (75, 86))
    sys.modules["tensorrt"].ComputeCapability = None
    with pytest.raises(UsageError, match="builds for the GPU in this machine"):
        check_sms(find_library("11"), (86,))


def test_the_installed_library_knows_the_gpus_of_the_issue(rtx):
    assert set(rtx.sms) >= {75, 80, 86, 89, 120}
