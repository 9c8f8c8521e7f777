"""`--packaging staged` on the command line: parts over one file of weights, verified and drawn from as one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.latent_pipelines import pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("lcm")
    pipeline(made)
    return made


@pytest.fixture(scope="module")
def staged(folder, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("staged")
    outcome = cmexport("onnx", folder, "--steps", 2, "--packaging", "staged", "--seeds", 8, "-o", out)
    assert outcome.code == 0, outcome.stderr
    return next(out.iterdir())


def test_parts_share_their_weights(staged):
    manifest = json.loads((staged / "manifest.json").read_text())
    assert manifest["runs"] == {"generate": ["encode", "paint", "decode"]}
    for graph in manifest["graphs"]:
        assert graph["files"] == [f"{graph['name']}.onnx", "weights.bin"]
        assert (staged / graph["files"][0]).stat().st_size < 600_000
    assert manifest["parity"]["pictures"] == 8


def test_the_seam(staged, folder, cmexport, tmp_path):
    """Parts in ONNX Runtime paint what the sampler paints as a whole, seed by seed."""
    drawn = []
    for subject, options in ((staged, ()), (folder, ("--steps", 2))):
        outcome = cmexport("sample", subject, *options, "--count", 3, "--seed", 5, "--save", tmp_path / "y.npz")
        assert outcome.code == 0, outcome.stderr
        drawn.append(np.load(tmp_path / "y.npz")["image"])
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=0, atol=1e-4)


def test_it_is_verified_again_and_bench_says_what_it_wants(staged, cmexport):
    outcome = cmexport("verify", staged, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    outcome = cmexport("bench", staged)
    assert outcome.code == 2
    assert "--packaging one" in outcome.stderr


def test_core_ml_has_the_parts_as_functions_of_one_package(folder, cmexport, tmp_path):
    outcome = cmexport("coreml", folder, "--steps", 1, "--fp16", "--packaging", "staged", "--seeds", 8, "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    artefact = next(tmp_path.iterdir())
    graphs = json.loads((artefact / "manifest.json").read_text())["graphs"]
    assert [graph["name"] for graph in graphs] == ["encode", "paint", "decode"]
    assert len({tuple(graph["files"]) for graph in graphs}) == 1
    outcome = cmexport("sample", artefact, "--prompt", "green car", "--count", 1, "--save", tmp_path / "y.npz")
    assert outcome.code == 0, outcome.stderr
    asked = ("--steps", 1, "--prompt", "green car", "--count", 1)
    assert cmexport("sample", folder, *asked, "--save", tmp_path / "x.npz").code == 0
    drawn, expected = (np.load(tmp_path / name)["image"] for name in ("y.npz", "x.npz"))
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=0.05)
