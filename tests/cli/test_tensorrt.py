"""`cmexport tensorrt` and what the other verbs do with its artefacts."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

SETTINGS = (
    "--set",
    "image_size=8",
    "--set",
    "num_head_channels=32",
    "--set",
    "qkv_order=thirds",
    "--set",
    "levels=40",
    "--seeds",
    8,
)


@pytest.fixture(scope="module")
def written(tiny_checkpoint, cmexport, tmp_path_factory):
    """An artefact of two tasks with engines, and what was printed."""
    pytest.importorskip("tensorrt_rtx")
    out = tmp_path_factory.mktemp("trt")
    arguments = ("--fp16", "--task", "generate,denoise", "--sigmas", "3", "--sm", "8.6,120", "-o", out)
    outcome = cmexport("tensorrt", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-tensorrt-fp16", outcome


def test_an_artefact_says_what_was_built_and_what_was_run(written):
    folder, outcome = written
    assert {f"{task}{end}" for task in ("generate", "denoise") for end in (".onnx", ".engine", ".layers.json")} <= {
        p.name for p in folder.iterdir()
    }
    printed = " ".join(outcome.stdout.split())
    assert "for 8.6, 12.0; layers:" in printed
    assert "typed ONNX, float16 emulated" in printed
    assert "Passed" in printed
    manifest = json.loads((folder / "manifest.json").read_text())
    (engine,) = manifest["session"]["options"]["engines"]
    assert engine["compute_capabilities"] == ["8.6", "12.0"]
    assert engine["float32_fallbacks"] == []
    assert manifest["tools"]["tensorrt_rtx"] in engine["library"]
    roles = {f["path"].split(".", 1)[1]: f["role"] for f in manifest["files"] if f["role"] != "golden"}
    assert roles == {"onnx": "model", "engine": "engine", "layers.json": "layers", "png": "preview"}


def test_verify_and_sample_take_it(written, cmexport, tmp_path):
    outcome = cmexport("verify", written[0] / "denoise.engine", "--task", "denoise", "--seeds", 8)
    assert outcome.code == 0, outcome.stderr


def test_inspect_shows_layers_with_and_without_the_artefact(written, cmexport, tmp_path):
    outcome = cmexport("inspect", written[0] / "generate.engine")
    assert outcome.code == 0, outcome.stderr
    assert "tiny, tensorrt fp16" in outcome.stdout
    assert "fused from" in outcome.stdout
    for name in ("generate.engine", "generate.layers.json"):
        shutil.copy(written[0] / name, tmp_path / name)
    facts = cmexport("inspect", tmp_path / "generate.engine", "--json").json["engine"]
    assert facts["compute_capabilities"] == ["8.6", "12.0"]
    assert facts["layers_by_precision"]["fp16"] > 0
    assert any("node_conv2d" in layer["operators"] for layer in facts["layers"])


def test_inspect_of_a_lone_or_damaged_engine_says_what_is_missing(written, cmexport, tmp_path):
    lone = tmp_path / "lone.engine"
    shutil.copy(written[0] / "generate.engine", lone)
    outcome = cmexport("inspect", lone)
    import torch

    if not torch.cuda.is_available():
        assert outcome.code == 5
        assert "there is none here" in outcome.stderr
    lone.write_bytes(lone.read_bytes()[:-7])
    outcome = cmexport("inspect", lone)
    assert outcome.code == 3
    assert "damaged" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_without_any_tensorrt_typed_onnx_is_the_result(tiny_checkpoint, cmexport, tmp_path, monkeypatch):
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, None)
    outcome = cmexport("tensorrt", tiny_checkpoint, *SETTINGS, "--bf16", "--label", 1, "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert "No engine: no TensorRT is installed here: typed ONNX only." in outcome.stdout
    folder = tmp_path / "tiny-tensorrt-bf16"
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "manifest.json", "preview.png", "golden"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["session"]["options"]["engines"] == []
    for arguments in (("--trt", "rtx"), ("--trt", "11"), ("--sm", "86"), ("--strip",)):
        refused = cmexport("tensorrt", tiny_checkpoint, *SETTINGS, *arguments, "-o", tmp_path / "x")
        assert refused.code == 5
        assert "pip install" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--trt", "9"), "--trt 9: known are auto, rtx, 10, 11"),
        (("--sm", "x"), "--sm x: give compute capabilities"),
        (("--batch", "0"), "must be at least 1"),
        (("--batch", "2,2"), "2 comes twice"),
        (("--keep-fp32", "auto"), "everything is float32"),
        (("--fp16", "--int8"), "choose one precision"),
        (("--precision", "w4"), "this target has fp32, fp16, bf16, int8, fp8"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(cmexport, tmp_path, arguments, said):
    outcome = cmexport("tensorrt", tmp_path / "none.pt", *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert said in outcome.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "precision", "code", "said"),
    [
        (None, "--int8", 3, "can't read this plan"),
        ("version = 2", "--int8", 3, "version must be 1"),
        ("version = 1", "--fp16", 2, "--plan: it says what is computed in 8-bit integers, and this is fp16"),
    ],
)
def test_plans_that_do_not_fit_are_refused(cmexport, tmp_path, text, precision, code, said):
    plan = tmp_path / "plan.toml"
    if text is not None:
        plan.write_text(text)
    outcome = cmexport("tensorrt", tmp_path / "none.pt", precision, "--plan", plan, "-o", tmp_path / "out")
    assert outcome.code == code
    assert said in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_unknown_gpus_are_refused(cmexport, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    outcome = cmexport("tensorrt", tmp_path / "none.pt", "--sm", "87", "-o", tmp_path / "out")
    assert outcome.code == 5
    assert "--sm 87: TensorRT for RTX" in outcome.stderr
