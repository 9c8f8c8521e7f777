"""The ONNX target as the rest of the package sees it: its rungs and its providers."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from cmexport.errors import UsageError
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.providers import PROFILES, profile_for
from cmexport.targets.onnx.target import OnnxTarget
from cmexport.targets.registry import target_named

SMALL = {"channel_mult": (1,), "attention_downsampling": (), "num_head_channels": 16}


def test_targets_are_found_by_name():
    assert isinstance(target_named("onnx"), OnnxTarget)
    with pytest.raises(UsageError, match=r"unknown target 'tflite'; known: .*onnx"):
        target_named("tflite")


def test_the_ladder_goes_from_no_optimization_to_all_of_it(export):
    exported = export(**SMALL)
    rungs = OnnxTarget().rungs(exported.folder, exported.lowered.files, exported.lowered.session)
    assert [r.name for r in rungs] == ["ONNX, no optimization", "ONNX Runtime, full optimization"]
    inputs = exported.inputs()
    for rung in rungs:
        with rung.open() as run:
            np.testing.assert_allclose(run(inputs)["image"], exported.reference(inputs), rtol=0, atol=1e-4)


def test_a_provider_in_this_build_gets_its_own_rung(export, monkeypatch):
    exported = export(options=OnnxOptions(ep="openvino"), **SMALL)
    target, files, session = OnnxTarget(), exported.lowered.files, exported.lowered.session
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert len(target.rungs(exported.folder, files, session)) == 2
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["OpenVINOExecutionProvider", "CPUExecutionProvider"])
    *_, last = target.rungs(exported.folder, files, session)
    assert last.name == "ONNX Runtime, openvino"
    assert last.open.args[2] == ("OpenVINOExecutionProvider",)
    assert last.open.args[3] == ({**PROFILES["openvino"].options},)


@pytest.mark.parametrize("ep", PROFILES)
def test_profiles_record_how_to_open_the_file(ep):
    session = profile_for(ep).session(ep)
    assert session["ep"] == ep
    assert session["providers"][0].endswith("ExecutionProvider")
    assert len(session["providers"]) == len(session["provider_options"])
    assert session["graph_optimization_level"] == "ORT_ENABLE_ALL"
    # Only ONNX Runtime's own kernels know the contrib operators.
    assert session["contrib_ops"] == (ep in ("cpu", "cuda"))


def test_lowering_and_stamping_go_through_the_target(export, tmp_path):
    exported = export(**SMALL)
    target = OnnxTarget()
    told = []
    lowered = target.lower_one(exported.captured, OnnxOptions(), tmp_path, told.append)
    assert lowered.files == ("model.onnx",)
    assert {"pack_attention", "translate to ONNX", "write"} <= set(told)
    assert {"torch", "onnx", "onnxruntime"} <= set(lowered.tools)
    before = (tmp_path / "model.onnx").stat().st_size
    target.stamp(tmp_path, lowered.files, {"cmexport.name": "x"})
    assert (tmp_path / "model.onnx").stat().st_size > before
