"""Artefacts that were written when manifests had version 1; `net.py` has the network that they came from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import cmexport
from cmexport.artifact import Manifest, read_manifest
from cmexport.artifact.replacing import conflict
from cmexport.errors import CheckpointError
from cmexport.exporting import ExportOptions
from cmexport.exporting import _subject as subject_of
from cmexport.recorded import request_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.signature import known
from cmexport.targets.info import LoweringOptions

RECORDED = Path(__file__).with_name("version1")
NETWORK = f"{RECORDED / 'net.py'}:build"


@pytest.fixture(params=["net-onnx-fp32", "net-coreml-fp16"])
def folder(request: pytest.FixtureRequest) -> Path:
    if "coreml" in request.param:
        pytest.importorskip("coremltools")
    return RECORDED / request.param


def test_their_borders_are_those_that_the_sampler_has_today(folder: Path) -> None:
    model, whole = cmexport.load(NETWORK), read_manifest(folder)
    assert whole.function_names == (("generate", "stroke") if "onnx" in folder.name else ("generate",))
    for task in whole.function_names:
        manifest = whole.function(task)
        border = resolve(model, request_of(manifest)).signature
        assert manifest.signature == (border if "onnx" in folder.name else border.without_int64())
        assert manifest.numerics["default"] == ("float32" if "onnx" in folder.name else "float16")
        assert [f.path for f in manifest.files][: len(manifest.graphs[0].files)] == list(manifest.graphs[0].files)


def test_they_draw_and_verify(folder: Path) -> None:
    artifact = cmexport.open(folder)
    found = artifact.verify(NETWORK, seeds=8)
    assert found.passed
    recorded = json.loads((folder / "manifest.json").read_text())["parity"]["rungs"][-1]["difference"]["mean_db"]
    assert math.isclose(found.mean_db, recorded, abs_tol=3.0)
    sampler = resolve(cmexport.load(NETWORK), request_of(artifact.manifest))
    with TorchRunner(sampler) as runner:
        (expected,) = runner(sampler.signature.draw(2, 5)).values()
    assert np.abs(artifact.sample(seed=7, label=2) - expected).max() < 5e-3


def test_a_new_export_of_the_same_replaces_one(folder: Path) -> None:
    model, whole = cmexport.load(NETWORK), read_manifest(folder)
    samplers = {name: resolve(model, request_of(whole.function(name))) for name in whole.function_names}
    options = ExportOptions(whole.target, LoweringOptions(whole.precision))
    old = json.loads((folder / "manifest.json").read_text())
    assert conflict(old, subject_of(samplers, options)) is None
    others = {name: sampler.with_batch(2) for name, sampler in samplers.items()}
    assert "batch 1, not 2" in str(conflict(old, subject_of(others, options)))


def test_the_first_ones_of_core_ml_wrote_down_the_captured_graphs_int64(tmp_path: Path) -> None:
    facts = json.loads((RECORDED / "net-coreml-fp16" / "manifest.json").read_text())
    next(i for i in facts["inputs"] if i["name"] == "label")["dtype"] = "int64"
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    assert read_manifest(tmp_path, check=False).signature.names == ("noise", "label")
    assert read_manifest(tmp_path, check=False).signature.inputs[1].dtype == "int32"


@pytest.mark.parametrize(
    "damage",
    [
        lambda facts: facts.pop("precision_plan"),
        lambda facts: facts.update(task="paint"),
        lambda facts: facts.update(classes="ten"),
        lambda facts: facts["sampling"].update(sigmas=[]),
        lambda facts: facts["outputs"].clear(),
        lambda facts: facts["inputs"][0].pop("name"),
        lambda facts: facts["inputs"][0].update(shape=[1, 3, "8", -8]),
        lambda facts: facts.update(functions=[{"name": "stroke"}]),
    ],
)
def test_damaged_ones_are_refused(tmp_path: Path, damage) -> None:
    facts = json.loads((RECORDED / "net-coreml-fp16" / "manifest.json").read_text())
    damage(facts)
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged: "):
        read_manifest(tmp_path, check=False)


def test_unknown_inputs_of_old_files_are_kept_without_a_law(tmp_path: Path) -> None:
    facts = json.loads((RECORDED / "net-coreml-fp16" / "manifest.json").read_text())
    facts["inputs"].append({"name": "difficulty", "shape": [1], "dtype": "float32", "meaning": "how hard"})
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    found: Manifest = read_manifest(tmp_path, check=False)
    assert found.signature.inputs[0] == known.noise((1, 3, 8, 8))
    assert found.signature.inputs[2].law is None
