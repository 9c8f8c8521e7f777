"""Installed, missing, broken, crashing and hanging libraries, and what the user is told to do about each."""

from __future__ import annotations

import json
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import pytest

from cmexport.doctor import Finding, backends, probes
from cmexport.doctor.backends import examine_backends, installed_version, libraries, run_probe
from cmexport.targets.coreml import library as coreml
from cmexport.targets.tensorrt import library as tensorrt


def pretend_installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Only these distributions exist (underscores stand for hyphens)."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in known:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(backends.metadata, "version", version)


def never(name: str) -> Finding:
    raise AssertionError(f"{name} was opened although it is not installed")


def test_an_empty_environment_is_told_the_extra_of_everything(monkeypatch: pytest.MonkeyPatch):
    pretend_installed(monkeypatch)
    found = {b.name: b for b in examine_backends(never)}
    assert {b.state for b in found.values()} == {"missing"}
    assert all(b.version is None and b.remedy for b in found.values())
    assert found["coremltools"].remedy == "pip install 'cmexport[coreml]'"
    assert found["TensorRT for RTX"].remedy == "pip install 'cmexport[tensorrt]'"
    assert found["ONNX Runtime QNN"].remedy == "pip install 'cmexport[qnn]'"
    assert found["zeus"].remedy == "pip install 'cmexport[bench]'"
    assert "JetPack" in found["TensorRT"].remedy
    assert [b.name for b in found.values() if b.required] == ["torch", "onnx", "onnxscript", "ONNX Runtime"]


def test_extras_named_in_remedies_exist():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"].keys()
    assert {library.extra for library in libraries() if library.extra} <= known


def test_only_installed_libraries_are_opened_and_their_finding_is_kept(monkeypatch: pytest.MonkeyPatch):
    pretend_installed(monkeypatch, torch="2.13.0", coremltools="9.0", segno="1.6.6", tensorrt_rtx_cu12="1.7")
    opened = []

    def probe(name: str) -> Finding:
        opened.append(name)
        if name == "torch":
            return Finding("broken", "ImportError: libgomp.so.1")
        if "coreml" in name:
            return Finding("limited", "fails to convert with numpy 2.4.0", "pip install 'numpy<2.4'")
        return Finding("works", "opened")

    found = {b.name: b for b in examine_backends(probe)}
    libraries = "cmexport.targets.coreml.library:probe", "cmexport.targets.tensorrt.library:probe_rtx"
    assert sorted(opened) == [*libraries, "torch"]
    assert (found["torch"].state, found["torch"].remedy) == ("broken", "pip install --force-reinstall cmexport")
    assert (found["coremltools"].state, found["coremltools"].remedy) == ("limited", "pip install 'numpy<2.4'")
    assert (found["TensorRT for RTX"].version, found["TensorRT for RTX"].remedy) == ("1.7", None)
    assert (found["segno"].state, found["segno"].version) == ("works", "1.6.6")


def test_installed_version_takes_the_first_that_exists():
    assert installed_version(("no-such-distribution", "numpy")) == metadata.version("numpy")
    assert installed_version(("no-such-distribution",)) is None


# --- run_probe: the child process -------------------------------------------------------------------------------------


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Put a module of this name and text first on the path, for this process and its children."""

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    return write


def test_the_real_onnx_runtime_runs_a_node():
    found = run_probe("onnxruntime")
    assert found.state == "works", found
    assert "CPU" in found.detail


def test_a_library_that_raises_is_broken_with_its_own_words(fake_module):
    fake_module("openvino", "raise ImportError('libtbb.so.12: cannot open shared object file')")
    assert run_probe("openvino") == Finding("broken", "ImportError: libtbb.so.12: cannot open shared object file")


def test_a_library_that_prints_notices_is_still_read(fake_module):
    fake_module(
        "openvino",
        "import atexit\nprint('notice', end='')\natexit.register(print, 'bye')\n"
        "class Core:\n    available_devices = ['CPU', 'NPU']\n",
    )
    assert run_probe("openvino") == Finding("works", "devices: CPU, NPU")


def test_a_library_that_kills_its_process_is_broken_and_we_live(fake_module):
    fake_module("openvino", "import os\nos.abort()")
    assert run_probe("openvino") == Finding("broken", "crashed with signal 6 while opening")


def test_a_library_that_ends_its_process_is_quoted(fake_module):
    fake_module("openvino", "import os, sys\nprint('licence expired', file=sys.stderr, flush=True)\nos._exit(3)")
    assert run_probe("openvino") == Finding("broken", "licence expired")


def test_a_library_that_hangs_is_given_up(fake_module, monkeypatch: pytest.MonkeyPatch):
    fake_module("openvino", "import time\ntime.sleep(60)")
    monkeypatch.setattr(backends, "PROBE_TIMEOUT_S", 1)
    assert run_probe("openvino") == Finding("broken", "did not open within 1 s")


def test_a_file_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "onnx.py").write_text("raise SystemExit('the wrong onnx')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert run_probe("onnxruntime").state == "works"


# --- probes, in this process, on stand-ins ----------------------------------------------------------------------------


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_coremltools_with_a_numpy_it_fails_on(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, "numpy", __version__="2.4.1")
    found = coreml.probe()
    assert found == Finding("limited", "fails to convert with numpy 2.4.1", "pip install 'numpy<2.4'")


def test_coremltools_without_its_weight_writer(monkeypatch: pytest.MonkeyPatch):
    stand_in(monkeypatch, "numpy", __version__="2.3.5")
    stand_in(monkeypatch, "coremltools")
    monkeypatch.setitem(sys.modules, "coremltools.libmilstoragepython", None)
    assert coreml.probe().state == "broken"


@pytest.mark.parametrize(("system", "says"), [("Linux", "macOS only"), ("Darwin", "converts and runs")])
def test_coremltools_says_where_its_kernels_run(monkeypatch: pytest.MonkeyPatch, system: str, says: str):
    stand_in(monkeypatch, "numpy", __version__="2.3.5")
    stand_in(monkeypatch, "coremltools")
    stand_in(monkeypatch, "coremltools.libmilstoragepython")
    monkeypatch.setattr(coreml.platform, "system", lambda: system)
    found = coreml.probe()
    assert found.state == "works"
    assert says in found.detail


@pytest.mark.parametrize(("driver", "state"), [("libcuda.so.1", "works"), (None, "limited")])
def test_tensorrt_builds_without_a_driver(monkeypatch: pytest.MonkeyPatch, driver: str | None, state: str):
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    stand_in(monkeypatch, "tensorrt_rtx", Logger=logger, Builder=lambda logger: object())
    monkeypatch.setattr(tensorrt.ctypes.util, "find_library", lambda name: driver)
    assert tensorrt.probe_rtx().state == state


def test_tensorrt_without_a_builder_is_broken(monkeypatch: pytest.MonkeyPatch):
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    stand_in(monkeypatch, "tensorrt", Logger=logger, Builder=lambda logger: None)
    assert tensorrt.probe().state == "broken"


@pytest.mark.parametrize(("ep_names", "state"), [(["CPUExecutionProvider"], "limited"), (["QNN"], "works")])
def test_qnn_tells_a_plug_in_from_a_device(monkeypatch: pytest.MonkeyPatch, ep_names: list[str], state: str):
    device = types.SimpleNamespace(type="OrtHardwareDeviceType.NPU")
    stand_in(
        monkeypatch,
        "onnxruntime",
        register_execution_provider_library=lambda name, path: None,
        get_ep_devices=lambda: [types.SimpleNamespace(ep_name=n, device=device) for n in ep_names],
    )
    stand_in(monkeypatch, "onnxruntime_qnn", get_library_path=lambda: "libqnn.so")
    found = probes.PROBES["qnn"]()
    assert found.state == state
    assert ("NPU" in found.detail) == (state == "works")


def test_probe_main_prints_one_marked_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    stand_in(monkeypatch, "openvino", Core=lambda: types.SimpleNamespace(available_devices=[]))
    probes.probe_main("openvino")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(probes.MARK)]
    assert json.loads(line.removeprefix(probes.MARK))["state"] == "broken"
