"""`cmexport onnx`, run as a user runs it: what it prints, writes, refuses and leaves behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.networks import SETTINGS


def test_writes_a_folder_that_explains_itself(tiny_artifact: Path) -> None:
    assert {p.name for p in tiny_artifact.iterdir()} == {"model.onnx", "manifest.json", "preview.png", "golden"}
    assert [p.name for p in tiny_artifact.parent.iterdir()] == [tiny_artifact.name]
    manifest = json.loads((tiny_artifact / "manifest.json").read_text())
    assert manifest["parity"]["passed"]
    assert [i["name"] for i in manifest["graphs"][0]["signature"]["inputs"]] == ["noise", "label"]
    facts = {p.key: p.value for p in onnx.load(tiny_artifact / "model.onnx").metadata_props}
    assert facts["cmexport.checkpoint.sha256"] == manifest["checkpoint"]["sha256"]
    assert json.loads(facts["cmexport.parity"])["passed"]


def test_json_is_one_object_on_stdout_and_nothing_else(tiny_checkpoint, cmexport, tmp_path) -> None:
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path, "--seeds", 8, "--fp16", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["manifest"]["precision"] == "fp16"
    assert Path(outcome.json["folder"]) == tmp_path / "tiny-onnx-fp16"


def test_a_failed_gate_keeps_the_file_as_rejected_and_returns_4(tiny_checkpoint, cmexport, tmp_path) -> None:
    # The gate is moved, not the artefact: no honest export of this network misses 100 dB.
    script = (
        "import sys; import cmexport.verification; cmexport.verification.gate_of = lambda precision, plan: 500.0;"
        "from cmexport.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["onnx", str(tiny_checkpoint), *SETTINGS, "-o", str(tmp_path), "--seeds", "8"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-onnx-fp32.rejected"]
    assert "no optimization" in done.stderr
    assert not json.loads((tmp_path / "tiny-onnx-fp32.rejected" / "manifest.json").read_text())["parity"]["passed"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fp16", "--precision", "fp32"), "one precision"),
        (("--precision", "int9"), "int9"),
        (("--ep", "tpu"), "tpu"),
        (("--rewrites", "fold_everything"), "fold_everything"),
        (("--label", "3"), "0 to 2"),
        (("--sigmas", "1,80"), "descend"),
        (("--sigmas", "a,b"), "numbers"),
        (("--steps", "0"), "--steps 0"),
        (("--timesteps", "22,5", "--levels", "40"), "end in 0"),
        (("--steps", "2", "--sigmas", "80,1"), "contradict"),
        (("--batch", "0"), "--batch 0"),
        (("--output", "jpeg"), "jpeg"),
        (("--set", "sigma_dat=1"), "sigma_data"),
        (("--set", "sigma_data"), "FIELD=VALUE"),
        (("--seeds", "3"), "at least 8"),
    ],
)
def test_wrong_usage_returns_2_names_the_fault_and_writes_nothing(
    tiny_checkpoint, cmexport, tmp_path, arguments, words
) -> None:
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path / "out", *arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def _runs_code(path: Path) -> Path:
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {path.parent / 'it-ran'}",)

    torch.save({"model": Bomb()}, path)
    return path


def _hostile(kind: str, tiny: Path, folder: Path) -> Path:
    path = folder / "bad.pt"
    state = torch.load(tiny, weights_only=True)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(tiny.read_bytes()[:30_000])
    elif kind == "text":
        path.write_text("this is no checkpoint\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "optimizer":
        weight = torch.nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.Adam([weight])
        weight.grad = torch.ones(3)
        optimizer.step()
        torch.save(optimizer.state_dict(), path)
    elif kind == "missing keys":
        torch.save({k: v for k, v in state.items() if not k.startswith("middle_block.0")}, path)
    elif kind == "extra keys":
        torch.save({**state, "input_blocks.1.0.extra.weight": torch.zeros(3)}, path)
    elif kind == "wrong shape":
        torch.save({**state, "out.2.weight": torch.zeros(3, 7, 3, 3)}, path)
    elif kind == "NaN":
        torch.save({**state, "out.2.bias": torch.full((3,), float("nan"))}, path)
    elif kind == "runs code":
        _runs_code(path)
    elif kind == "pickle bomb":
        path.write_bytes(pickle.dumps(print))
    elif kind == "other model":
        torch.save(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)).state_dict(), path)
    elif kind == "missing file":
        pass
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "truncated", "text", "folder", "optimizer", "missing keys", "extra keys", "wrong shape", "NaN"),
        *("runs code", "pickle bomb", "other model", "missing file"),
    ],
)
def test_an_unusable_checkpoint_returns_3_says_why_and_leaves_nothing(
    tiny_checkpoint, cmexport, tmp_path, kind
) -> None:
    path = _hostile(kind, tiny_checkpoint, tmp_path)
    outcome = cmexport("onnx", path, *SETTINGS, "-o", tmp_path / "out")
    assert outcome.code == 3, outcome.stderr
    assert "bad.pt" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "it-ran").exists()


def test_an_output_that_is_a_file_returns_3(tiny_checkpoint, cmexport, tmp_path) -> None:
    (tmp_path / "out").write_text("mine")
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path / "out")
    assert outcome.code == 3, outcome.stderr
    assert (tmp_path / "out").read_text() == "mine"


def _obey_sigint() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_interrupting_leaves_nothing(tiny_checkpoint, tmp_path) -> None:
    command = [sys.executable, "-m", "cmexport", "onnx", str(tiny_checkpoint), *SETTINGS, "-o", str(tmp_path / "out")]
    for number in (signal.SIGINT, signal.SIGTERM):
        # A test run started in the background has SIGINT ignored, and its children inherit that.
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_obey_sigint)
        deadline = time.monotonic() + 60
        while not any((tmp_path / "out").glob(".*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert "interrupted" in stderr
        assert not (tmp_path / "out").exists()


def test_without_a_checkpoint_the_project_file_names_it(tiny_checkpoint, cmexport, tmp_path) -> None:
    (tmp_path / "cmexport.toml").write_text(
        f'checkpoint = "{tiny_checkpoint}"\n[set]\nimage_size = 8\nnum_head_channels = 32\n'
    )
    outcome = cmexport("onnx", "--no-verify", "-o", tmp_path / "out", cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert "cmexport.toml" in outcome.stderr
    assert (tmp_path / "out" / "tiny-onnx-fp32" / "model.onnx").is_file()
    assert json.loads((tmp_path / "out" / "tiny-onnx-fp32" / "manifest.json").read_text())["parity"] is None


@pytest.mark.parametrize("content", ["checkpoint = 3", "chekpoint = 'x'", "not toml ="])
def test_a_faulty_project_file_returns_2(cmexport, tmp_path, content) -> None:
    (tmp_path / "cmexport.toml").write_text(content)
    outcome = cmexport("onnx", cwd=tmp_path)
    assert outcome.code == 2, outcome.stderr
    assert "cmexport.toml" in outcome.stderr


def test_two_steps_and_bytes_run_from_the_file_alone(tiny_checkpoint, cmexport, tmp_path) -> None:
    outcome = cmexport(
        *("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path, "--seeds", 8, "--sigmas", "80,1.38"),
        *("--label", 1, "--output", "uint8", "--batch", 2),
    )
    assert outcome.code == 0, outcome.stderr
    session = ort.InferenceSession(tmp_path / "tiny-onnx-fp32" / "model.onnx")
    assert {i.name: i.shape for i in session.get_inputs()} == {"noise": [2, 3, 8, 8], "renoise": [1, 2, 3, 8, 8]}
    rng = np.random.default_rng(0)
    feed = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    (image,) = session.run(["image"], feed)
    assert image.dtype == np.uint8
    assert image.shape == (2, 8, 8, 3)


def test_debug_shows_the_traceback(cmexport, tmp_path) -> None:
    outcome = cmexport("onnx", tmp_path / "none.pt", CMEXPORT_DEBUG="1")
    assert outcome.code == 3
    assert "Traceback" in outcome.stderr
