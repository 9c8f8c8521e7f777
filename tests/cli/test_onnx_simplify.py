"""`cmexport onnx --simplify`: parity is measured on what ships; a missing or failing onnxsim leaves nothing."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import onnxsim
import pytest
from support.networks import SETTINGS


@pytest.fixture
def simplify(tiny_checkpoint, cmexport, tmp_path):
    def run(*arguments):
        return cmexport(
            "onnx", tiny_checkpoint, *SETTINGS, "--simplify", "-o", tmp_path / "out", "--seeds", 8, *arguments
        )

    return run


def test_the_manifest_and_the_file_say_it(simplify, tiny_artifact, tmp_path) -> None:
    outcome = simplify()
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "out" / "tiny-onnx-fp32"
    manifest = json.loads((folder / "manifest.json").read_text())
    model, plain = onnx.load(folder / "model.onnx"), onnx.load(tiny_artifact / "model.onnx")
    wanted = {
        "onnxsim": onnxsim.__version__.lstrip("v"),
        "nodes_before": len(plain.graph.node),
        "nodes_after": len(model.graph.node),
    }
    assert manifest["simplification"] == wanted
    assert manifest["parity"]["passed"]
    facts = {p.key: p.value for p in model.metadata_props}
    assert json.loads(facts["cmexport.simplification"]) == wanted
    assert set(facts) - {"cmexport.simplification"} == {p.key for p in plain.metadata_props}
    assert json.loads((tiny_artifact / "manifest.json").read_text())["simplification"] is None


def test_parity_is_measured_on_what_it_made(simplify, tmp_path, monkeypatch) -> None:
    def spoil(path, **_):
        model = onnx.load(path)
        for kernel in (i for i in model.graph.initializer if len(i.dims) == 4):
            kernel.CopyFrom(
                onnx.numpy_helper.from_array(np.float32(1.01) * onnx.numpy_helper.to_array(kernel), kernel.name)
            )
        return model, True

    monkeypatch.setattr(onnxsim, "simplify", spoil)
    outcome = simplify()
    assert outcome.code == 4, outcome.stderr
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tiny-onnx-fp32.rejected"]


def test_a_missing_onnxsim_is_said_before_any_work(cmexport, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    # The checkpoint doesn't exist either: it isn't opened first.
    outcome = cmexport("onnx", tmp_path / "none.pt", "--simplify", "-o", tmp_path / "out")
    assert outcome.code == 5
    assert "pip install 'cmexport[simplify]'" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("thrown", "code", "words"),
    [
        (RuntimeError("Bad node spec\nat 0x7f"), 5, "Bad node spec"),
        (KeyboardInterrupt(), 130, "nothing was left behind"),
    ],
)
def test_what_stops_it_leaves_nothing(simplify, tmp_path, monkeypatch, thrown, code, words) -> None:
    def stop(*_, **__):
        raise thrown

    monkeypatch.setattr(onnxsim, "simplify", stop)
    outcome = simplify()
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert "0x7f" not in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.glob("out/*"))


def test_a_loop_is_refused(simplify, tmp_path) -> None:
    outcome = simplify("--sampler", "heun", "--steps", 2)
    assert outcome.code == 2
    assert "--simplify: not for --sampler heun" in outcome.stderr
    assert not list(tmp_path.glob("out/*"))
