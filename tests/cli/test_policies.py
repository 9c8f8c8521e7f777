"""Policies on the command line: every target, the way from the artefact back, and what has no meaning for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmexport.artifact import read_manifest

POLICY = Path(__file__).parent.parent / "checkpoints" / "files" / "policy.ckpt"


@pytest.fixture(scope="module")
def chained(cmexport, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    outcome = cmexport("onnx", POLICY, "--steps", 3, "--seeds", 8, "-o", folder)
    assert outcome.code == 0, outcome.stderr
    return folder / "policy-onnx-fp32"


def test_the_manifest_says_what_the_graph_does(chained):
    manifest = read_manifest(chained)
    assert manifest.parity.passed
    assert manifest.sampling.sigmas == (80.0, 27.0, 54.0)
    assert [e.noise_std for e in manifest.sampling.evaluations] == [1.0, 27.0, 54.0]
    assert [(i.name, i.shape) for i in manifest.signature.inputs] == [
        ("noise", (1, 1, 16, 3)),
        ("renoise", (2, 1, 1, 16, 3)),
        ("global_cond", (1, 2)),
    ]
    assert manifest.signature.output.name == "actions"
    assert len(manifest.signature.output.columns) == 3
    assert manifest.sampling.transform.formula == "(y - offset) / scale, by column"


def test_it_is_verified_again_from_its_checkpoint(chained, cmexport):
    outcome = cmexport("verify", chained, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr


def test_the_same_again_takes_its_place_unasked(chained, cmexport):
    outcome = cmexport("onnx", POLICY, "--steps", 3, "--seeds", 8, "-o", chained.parent)
    assert outcome.code == 0, outcome.stderr
    other = cmexport("onnx", POLICY, "--steps", 2, "--no-verify", "-o", chained.parent)
    assert other.code == 2
    assert "sigmas" in other.stderr


def test_checkpoint_and_artefact_plan_the_same_actions(chained, cmexport, tmp_path):
    both = []
    for name, subject, schedule in (("a", chained, ()), ("b", POLICY, ("--steps", 3))):
        file = tmp_path / f"{name}.npz"
        outcome = cmexport("sample", subject, *schedule, "--count", 3, "--save", file)
        assert outcome.code == 0, outcome.stderr
        both.append(np.load(file)["image"])
    assert both[0].shape == (3, 1, 16, 3)
    assert np.abs(both[0] - both[1]).max() < 1e-4
    low, high = np.array(read_manifest(chained).signature.output.columns).T
    assert (both[0] >= low - 1e-5).all()
    assert (both[0] <= high + 1e-5).all()
    # Column 0 reaches farther than column 1 ever could.
    assert both[0][..., 0].max() > high[1]


@pytest.mark.parametrize("target", ["coreml", "tensorrt"])
def test_other_targets(target, cmexport, tmp_path):
    outcome = cmexport(target, POLICY, "--steps", 2, "--seeds", 8, "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    manifest = read_manifest(tmp_path / f"policy-{target}-fp32")
    assert manifest.parity.passed
    assert [i.name for i in manifest.signature.inputs] == ["noise", "renoise", "global_cond"]


def test_inspect_tells_the_chain(cmexport):
    outcome = cmexport("inspect", POLICY)
    assert outcome.code == 0, outcome.stderr
    assert "--steps 2 evaluates at 80, 27" in outcome.stdout
    assert "D,27,54" in outcome.stdout


def test_kits_show_pictures(chained, cmexport, tmp_path):
    outcome = cmexport("kit", chained, "--platform", "python", "-o", tmp_path)
    assert outcome.code == 2
    assert "gives actions in units of the demonstrations, and kits show pictures" in outcome.stderr


def test_schedules_are_not_tuned_by_pictures(cmexport, tmp_path):
    outcome = cmexport("tune", POLICY, "--table", cwd=tmp_path)
    assert outcome.code == 2
    assert "plans actions, and tune judges pictures" in outcome.stderr
