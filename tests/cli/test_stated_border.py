"""What a file says of its border is true, and nothing but cmexport speaks on stderr."""

from __future__ import annotations

import json
import subprocess
import sys

import diffusers
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.networks import SETTINGS


@pytest.fixture(scope="module")
def loud(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint with pictures beyond [-1, 1]."""
    state = torch.load(tiny_checkpoint)
    state["out.2.weight"] *= 20
    path = tmp_path_factory.mktemp("loud") / "tiny.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def free(loud, cmexport, tmp_path_factory):
    """An artefact whose last step does not clamp."""
    out = tmp_path_factory.mktemp("free")
    outcome = cmexport("onnx", loud, *SETTINGS, "--set", "clamp=false", "-o", out, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-onnx-fp32"


def stated(folder):
    """What the model file and the manifest say of the pictures."""
    (output,) = onnx.load(folder / "model.onnx").graph.output
    props = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    return [output.doc_string, json.dumps(props), (folder / "manifest.json").read_text()]


def loudest(folder):
    """The largest number in pictures that onnxruntime alone draws, from standard noise."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    noise = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    return abs(session.run(None, {"noise": noise, "label": np.zeros(1, dtype=np.int64)})[0]).max()


def test_a_file_without_a_clamp_does_not_promise_a_range(free):
    assert loudest(free) > 1
    said = stated(free)
    assert any("not clamped" in text for text in said[:2])
    assert "not clamped" in said[2]
    assert not any("(N, C, H, W) in [-1, 1]" in text for text in said)


def test_a_file_with_a_clamp_does(loud, cmexport, tmp_path):
    outcome = cmexport("onnx", loud, *SETTINGS, "-o", tmp_path, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "tiny-onnx-fp32"
    assert loudest(folder) <= 1
    said = stated(folder)
    assert "(N, C, H, W) in [-1, 1]" in said[2]
    assert not any("not clamped" in text for text in said)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_beyond_the_classes_is_refused_by_model_and_artefact(label, free, tiny_checkpoint, cmexport, tmp_path):
    for subject in ((free,), (tiny_checkpoint, *SETTINGS)):
        outcome = cmexport("sample", *subject, "--label", label, "-o", tmp_path / "never.png")
        assert outcome.code == 2
        assert f"--label {label}: out of range, this model has labels 0 to 2" in outcome.stderr
        assert not (tmp_path / "never.png").exists()
    # The file itself can't refuse, so it says what it takes.
    assert "0 to 2" in (free / "manifest.json").read_text()


def test_libraries_remarks_do_not_reach_stderr(tmp_path):
    """In a process of its own: diffusers' log has its handler, and warnings are shown once a process."""
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=32,
    )
    scheduler = diffusers.CMStochasticIterativeScheduler()
    diffusers.ConsistencyModelPipeline(unet, scheduler).save_pretrained(tmp_path)
    config = tmp_path / "unet" / "config.json"
    # A field of a later release: diffusers remarks that it "will be ignored".
    config.write_text(json.dumps({**json.loads(config.read_text()), "of_a_later_release": None}))
    command = [sys.executable, "-P", "-m", "cmexport", "inspect", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    foreign = [line for line in done.stderr.splitlines() if "will be ignored" in line or "arning" in line]
    assert foreign == []
