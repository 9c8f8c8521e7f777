"""inspect, verify, sample and doctor, run as a user runs them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

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
    assert settings["channel_mult"]["value"] == [1]
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


@pytest.fixture
def orphan(tiny_artifact, tmp_path):
    """An artefact without its checkpoint, whose manifest and files a function changes."""

    def make(change=lambda folder, manifest: None) -> Path:
        shutil.copytree(tiny_artifact, copy := tmp_path / "copy")
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["checkpoint"]["path"] = "/nowhere/tiny.pt"
        change(copy, manifest)
        for entry in manifest["files"]:
            content = (copy / entry["path"]).read_bytes()
            entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return make


def test_without_its_checkpoint_an_artefact_is_checked_on_its_golden_pictures(orphan, cmexport) -> None:
    outcome = cmexport("verify", orphan(), "--json")
    assert outcome.code == 0, outcome.stderr
    assert "tiny.pt is not at /nowhere/tiny.pt any more: compared with the pictures in golden/ only" in outcome.stderr
    assert "--against CKPT" in outcome.stderr
    parity = outcome.json["parity"]
    assert (parity["reference"], parity["pictures"]) == ("PyTorch's pictures in golden/", 2)
    assert (len(parity["rungs"]), parity["rungs"][0]["difference"]["mean_db"] > 100) == (1, True)


def test_golden_pictures_are_pytorchs_and_what_verify_takes(tiny_artifact, tiny_checkpoint, cmexport, tmp_path) -> None:
    names = [tiny_artifact / "golden" / f"generate.{what}.npz" for what in ("inputs", "expected")]
    drawn = cmexport("sample", tiny_checkpoint, *SETTINGS, "--inputs", names[0], "--save", tmp_path / "y.npz")
    assert drawn.code == 0, drawn.stderr
    expected = np.load(names[1])["image"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["image"], expected, atol=1e-6)
    assert expected.shape == (2, 3, 8, 8)
    noise = [torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    np.testing.assert_array_equal(np.load(names[0])["noise"], torch.stack(noise))
    assert cmexport("verify", tiny_artifact, "--inputs", names[0], "--expected", names[1]).code == 0
    manifest = json.loads((tiny_artifact / "manifest.json").read_text())
    assert [f["path"] for f in manifest["files"] if f["role"] == "golden"] == [f"golden/{n.name}" for n in names]


def test_other_pictures_than_the_golden_ones_miss_the_gate(orphan, cmexport) -> None:
    def darker(folder: Path, manifest: dict) -> None:
        path = folder / "golden" / "generate.expected.npz"
        np.savez(path, image=np.load(path)["image"] - 1e-3)

    outcome = cmexport("verify", orphan(darker))
    assert outcome.code == 4
    assert "gate" in outcome.stderr


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda folder, manifest: manifest.update(golden=None), 2, "--against"),
        (lambda folder, manifest: np.savez(folder / "golden/generate.inputs.npz", noise=np.zeros(3)), 3, "inputs hold"),
        (
            lambda folder, manifest: np.savez(folder / "golden/generate.expected.npz", image=np.zeros(3)),
            3,
            "pictures of",
        ),
        (lambda folder, manifest: (folder / "golden/generate.expected.npz").write_bytes(b"PK"), 3, "not a readable"),
        (lambda folder, manifest: manifest["golden"].update(inputs="other.npz"), 3, "other.npz has no hash"),
        (lambda folder, manifest: manifest["golden"].update(inputs="../x.npz"), 3, "inside the artefact"),
    ],
)
def test_an_artefact_without_checkpoint_or_sound_golden_pictures_is_refused(orphan, cmexport, change, code, said):
    outcome = cmexport("verify", orphan(change))
    assert outcome.code == code
    assert said in outcome.stderr


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
