"""Artefacts that want one folder: nothing goes that was not asked for, and nothing silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.networks import tiny_config

from cmexport.networks.adm_unet import AdmUnet

# Nothing is left to guess, so that stderr has nothing else to say.
FAST = (
    *(
        part
        for field in ("image_size=8", "num_head_channels=32", "qkv_order=thirds", "levels=40")
        for part in ("--set", field)
    ),
    "--no-verify",
)


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return AdmUnet(tiny_config(3)).state_dict()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def exported(cmexport, tmp_path):
    """`same.pt`, exported once; gives the checkpoint, the output folder and what is in it."""
    checkpoint, out = tmp_path / "same.pt", tmp_path / "out"
    torch.save(weights(0), checkpoint)
    outcome = cmexport("onnx", checkpoint, *FAST, "-o", out)
    assert outcome.code == 0, outcome.stderr
    assert "replaced" not in outcome.stderr
    return checkpoint, out, snapshot(out)


def test_another_checkpoint_of_that_name_is_refused_before_any_work(cmexport, exported, tmp_path, monkeypatch) -> None:
    _, out, before = exported
    other = tmp_path / "same.safetensors"
    save_file(weights(1), other)
    with monkeypatch.context() as patch:
        patch.setattr("cmexport.exporting.capture", lambda *_: pytest.fail("work was begun"))
        outcome = cmexport("onnx", other, *FAST, "-o", out)
    assert outcome.code == 2
    assert "another checkpoint (same.pt" in " ".join(outcome.stderr.split())
    assert "--overwrite" in " ".join(outcome.stderr.split())
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert snapshot(out) == before
    outcome = cmexport("onnx", other, *FAST, "-o", out, "--overwrite", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["manifest"]["checkpoint"]["file"] == "same.safetensors", "stdout is pure JSON"
    assert "replaced the artefact of same.pt" in " ".join(outcome.stderr.split())


def test_versions_that_differ_behind_a_dot_have_a_folder_each(cmexport, tmp_path) -> None:
    for seed, name in enumerate(("ema_0.9999", "ema_0.9993", "cm-v1.0.pt", "cm-v1.5.pt")):
        torch.save(weights(seed), tmp_path / name)
        outcome = cmexport("onnx", tmp_path / name, *FAST, "-o", tmp_path / "out")
        assert outcome.code == 0, outcome.stderr
    found = {p.name: json.loads((p / "manifest.json").read_text()) for p in (tmp_path / "out").iterdir()}
    assert sorted(found) == ["cm-v1.0-onnx-fp32", "cm-v1.5-onnx-fp32", "ema_0.9993-onnx-fp32", "ema_0.9999-onnx-fp32"]
    assert all(m["name"] + "-onnx-fp32" == name for name, m in found.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--steps", 2), "steps 1, not 2"), (("--label", 1), "label an input, not 1"), (("--ep", "web"), "ep cpu")],
)
def test_other_options_of_one_checkpoint_are_another_artefact(cmexport, exported, options, words) -> None:
    checkpoint, out, before = exported
    outcome = cmexport("onnx", checkpoint, *FAST, "-o", out, *options)
    assert outcome.code == 2
    assert words in " ".join(outcome.stderr.split())
    assert snapshot(out) == before


def test_the_same_again_is_replaced_aloud(cmexport, exported) -> None:
    checkpoint, out, _ = exported
    outcome = cmexport("onnx", checkpoint, *FAST, "-o", out)
    assert outcome.code == 0, outcome.stderr
    assert "replaced the artefact of same.pt" in " ".join(outcome.stderr.split())


def test_a_folder_of_another_kind_stays(cmexport, exported) -> None:
    checkpoint, out, _ = exported
    artefact = out / "same-onnx-fp32"
    (artefact / "manifest.json").write_text('{"name": "web app", "icons": []}')
    before = snapshot(out)
    outcome = cmexport("onnx", checkpoint, *FAST, "-o", out)
    assert outcome.code == 2
    assert "something else than an artefact" in " ".join(outcome.stderr.split())
    assert snapshot(out) == before


def test_a_rejected_artefact_of_another_checkpoint_stays_too(cmexport, exported, tmp_path) -> None:
    _, out, _ = exported
    (out / "same-onnx-fp32").rename(out / "same-onnx-fp32.rejected")
    before = snapshot(out)
    other = tmp_path / "same.bin"
    torch.save(weights(1), other)
    outcome = cmexport("onnx", other, *FAST[:-1], "--seeds", 8, "-o", out)
    assert outcome.code == 2
    assert "same-onnx-fp32.rejected: holds an artefact of another checkpoint" in " ".join(outcome.stderr.split())
    assert snapshot(out) == before
