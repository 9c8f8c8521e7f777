"""inspect, verify, sample and doctor, run as a user runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

SETTINGS = ("--set", "image_size=8", "--set", "num_head_channels=32")


def test_inspect_shows_every_constant_with_its_origin(tiny_checkpoint, cmexport) -> None:
    outcome = cmexport("inspect", tiny_checkpoint, *SETTINGS, "--json")
    assert outcome.code == 0, outcome.stderr
    settings = {s["name"]: s for s in outcome.json["settings"]}
    assert settings["image_size"] | {"origin": None} == {
        "name": "image_size",
        "value": 8,
        "origin": None,
        "ambiguous": False,
    }
    assert settings["image_size"]["origin"].startswith("--set")
    assert settings["channel_mult"]["value"] == [1, 2]
    assert settings["sigma_max"]["value"] == 80.0
    # Constants of the published preconditioning at sigma 80 (Song et al. 2023, appendix C).
    assert outcome.json["one_step"]["c_skip"] == pytest.approx(3.906293e-05, rel=1e-6)
    text = cmexport("inspect", tiny_checkpoint, *SETTINGS).stdout
    assert "num_head_channels" in text
    assert "weights" in text


def test_inspect_names_what_it_guessed(tiny_checkpoint, cmexport) -> None:
    outcome = cmexport("inspect", tiny_checkpoint, "--set", "num_head_channels=32")
    assert outcome.code == 0, outcome.stderr
    assert "Ambiguous" in outcome.stdout
    assert "image_size" in outcome.stdout.split("Ambiguous")[1]


def test_inspect_prints_the_account_of_an_artefact(tiny_artifact, cmexport) -> None:
    for subject in (tiny_artifact, tiny_artifact / "model.onnx"):
        outcome = cmexport("inspect", subject)
        assert outcome.code == 0, outcome.stderr
        assert "tabulate_labels" in outcome.stdout
        assert "Parity passed" in outcome.stdout


def test_verify_finds_the_checkpoint_again(tiny_artifact, cmexport) -> None:
    outcome = cmexport("verify", tiny_artifact, "--seeds", 8, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["parity"]["rungs"][-1]["difference"]["mean_db"] > 100


def test_verify_against_other_weights_fails_with_4(tiny_artifact, tiny_checkpoint, cmexport, tmp_path) -> None:
    other = tmp_path / "other.pt"
    state = torch.load(tiny_checkpoint, weights_only=True)
    state["out.2.bias"] = state["out.2.bias"] + 0.1
    torch.save(state, other)
    outcome = cmexport("verify", tiny_artifact, "--against", other, "--seeds", 8)
    assert outcome.code == 4
    assert "no optimization" in outcome.stderr
    assert cmexport("verify", tiny_artifact, "--against", tiny_checkpoint, "--seeds", 8).code == 0


def test_verify_refuses_a_changed_model_file(tiny_artifact, cmexport, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact, copy)
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(content)
    outcome = cmexport("verify", copy)
    assert outcome.code == 3
    assert "SHA-256" in outcome.stderr


def test_verify_names_the_missing_checkpoint(tiny_artifact, cmexport, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_artifact, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["checkpoint"]["path"] = "/nowhere/tiny.pt"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    outcome = cmexport("verify", copy)
    assert outcome.code == 2
    assert "--against" in outcome.stderr


def test_samples_round_trip_through_npz(tiny_artifact, tiny_checkpoint, cmexport, tmp_path) -> None:
    rng = np.random.default_rng(1)
    inputs = {"noise": rng.standard_normal((3, 3, 8, 8)).astype(np.float32), "label": np.array([0, 1, 2])}
    np.savez(tmp_path / "x.npz", **inputs)
    made = cmexport("sample", tiny_artifact, "--inputs", tmp_path / "x.npz", "--save", tmp_path / "y.npz")
    assert made.code == 0, made.stderr
    reference = cmexport(
        "sample", tiny_checkpoint, *SETTINGS, "--inputs", tmp_path / "x.npz", "--save", tmp_path / "z.npz"
    )
    assert reference.code == 0, reference.stderr
    y, z = np.load(tmp_path / "y.npz")["image"], np.load(tmp_path / "z.npz")["image"]
    assert y.shape == (3, 3, 8, 8)
    np.testing.assert_allclose(y, z, atol=1e-5)
    checked = ("--inputs", tmp_path / "x.npz", "--expected", tmp_path / "z.npz")
    assert cmexport("verify", tiny_artifact, *checked).code == 0
    np.savez(tmp_path / "z.npz", image=z[::-1])
    assert cmexport("verify", tiny_artifact, *checked).code == 4


def test_sample_grid_depends_on_seed_and_label_only(tiny_artifact, cmexport, tmp_path) -> None:
    def grid(name: str, *arguments: object) -> np.ndarray:
        outcome = cmexport("sample", tiny_artifact, "-o", tmp_path / name, *arguments)
        assert outcome.code == 0, outcome.stderr
        return np.asarray(Image.open(tmp_path / name))

    first = grid("a.png", "--seed", 1, "--count", 4)
    assert np.array_equal(first, grid("b.png", "--seed", 1, "--count", 4))
    assert not np.array_equal(first, grid("c.png", "--seed", 2, "--count", 4))
    assert not np.array_equal(first, grid("d.png", "--seed", 1, "--count", 4, "--label", 2))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--count", 4), 2, "nothing to write"),
        (("-o", "x.gif"), 2, ".png"),
        (("--save", "x.npy"), 2, ".npz"),
        (("-o", "x.png", "--label", 7), 2, "0 to 2"),
        (("-o", "x.png", "--sigmas", "80,1"), 2, "fixed"),
        (("-o", "x.png", "--inputs", "none.npz"), 3, "none.npz"),
        (("-o", "no/such/folder/x.png"), 3, "x.png"),
    ],
)
def test_sample_refuses_in_a_sentence(tiny_artifact, cmexport, tmp_path, arguments, code, words) -> None:
    outcome = cmexport("sample", tiny_artifact, *arguments, cwd=tmp_path)
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert not list(tmp_path.iterdir())


def test_sample_refuses_pickled_arrays(tiny_artifact, cmexport, tmp_path) -> None:
    np.savez(tmp_path / "x.npz", noise=np.array([object()], dtype=object))
    outcome = cmexport("sample", tiny_artifact, "--inputs", tmp_path / "x.npz", "--save", tmp_path / "y.npz")
    assert outcome.code == 3
    assert "x.npz" in outcome.stderr


def test_doctor_speaks_json(cmexport) -> None:
    outcome = cmexport("doctor", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json


def test_help_and_version(cmexport) -> None:
    for verb in ("inspect", "onnx", "verify", "sample", "doctor"):
        assert verb in cmexport("--help").stdout
        assert cmexport(verb, "--help").code == 0
    assert cmexport("--version").stdout.startswith("cmexport ")
    assert cmexport("onxx").code == 2


def test_the_installed_command_returns_the_exit_code() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "cmexport", "inspect", "/nowhere/x.pt"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 3
    assert "/nowhere/x.pt" in process.stderr
    assert process.stdout == ""


def test_inspect_catches_a_wrong_reading_of_the_demo(cmexport) -> None:
    for wrong, right in (("qkv_order=head_major", "qkv_order=thirds"), ("c_noise=0.25ln", "c_noise=250ln")):
        outcome = cmexport("inspect", "--set", wrong, "--json")
        assert outcome.code == 0, outcome.stderr
        assert right in " ".join(outcome.json["self_check"]["warnings"])
    assert cmexport("inspect", "--json").json["self_check"]["warnings"] == []


def test_an_own_network_goes_the_whole_way(cmexport, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)\n"
        "    def forward(self, x, c_noise):\n"
        "        return torch.tanh(self.conv(x)) * torch.cos(c_noise).to(x.dtype)\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Net().eval()\n"
    )
    sets = ("--set", "precond=cm", "--set", "c_noise=0.25ln", "--set", "image_size=8")
    outcome = cmexport("onnx", f"{tmp_path / 'mine.py'}:build", *sets, "-o", tmp_path / "out", "--seeds", 8, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["manifest"]["parity"]["passed"]


def test_the_library_loads_lazily_and_offers_the_same() -> None:
    code = (
        "import sys, cmexport; assert 'torch' not in sys.modules; "
        "assert callable(cmexport.load) and callable(cmexport.export_model) and 'torch' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("subject", ["checkpoint", "artefact"])
def test_labels_that_the_model_does_not_have_are_refused(subject, tiny_checkpoint, tiny_artifact, cmexport, tmp_path):
    told = (tiny_checkpoint, *SETTINGS) if subject == "checkpoint" else (tiny_artifact,)
    for label in (-1, 3):
        outcome = cmexport("sample", *told, "--label", label, "--count", 1, "--save", tmp_path / "y.npz")
        assert outcome.code == 2
        assert "labels 0 to 2" in outcome.stderr
    # 2^32 would be 0 in a graph of int32.
    for label in (-1, 3, 2**32):
        noise = np.zeros((1, 3, 8, 8), dtype=np.float32)
        np.savez(tmp_path / "x.npz", noise=noise, label=np.array([label]))
        outcome = cmexport("sample", *told, "--inputs", tmp_path / "x.npz", "--save", tmp_path / "y.npz")
        assert outcome.code == 3
        assert "outside 0 to 2" in outcome.stderr
    assert not (tmp_path / "y.npz").exists()
