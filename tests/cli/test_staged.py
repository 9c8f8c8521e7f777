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
    outcome = cmexport("onnx", folder, "--steps", "1,2", "--packaging", "staged", "--seeds", 8, "-o", out)
    assert outcome.code == 0, outcome.stderr
    return next(out.iterdir())


def test_parts_share_their_weights(staged):
    manifest = json.loads((staged / "manifest.json").read_text())
    assert manifest["runs"] == {
        "1-step": ["encode", "paint_1", "decode"],
        "2-steps": ["encode", "paint_2", "decode"],
    }
    for graph in manifest["graphs"]:
        assert graph["files"] == [f"{graph['name']}.onnx", "weights.bin"]
        assert (staged / graph["files"][0]).stat().st_size < 600_000
    assert [run["parity"]["pictures"] for run in manifest["functions"]] == [8, 8]
    assert {run["task"] for run in manifest["functions"]} == {"generate"}
    assert [len(run["sampling"]["evaluations"]) for run in manifest["functions"]] == [1, 2]
    # Stored once, whatever the steps: float32, without the UNet's time branch. Twice would be 5.5 MB.
    assert (staged / "weights.bin").stat().st_size < 4 * manifest["checkpoint"]["parameters"]


def test_each_part_has_its_share_of_time_and_error(staged, cmexport):
    manifest = json.loads((staged / "manifest.json").read_text())
    for run in manifest["functions"]:
        parts, parity = manifest["runs"][run["name"]], run["parity"]
        for rung in parity["rungs"]:
            assert list(rung["part_seconds"]) == parts
            assert all(seconds > 0 for seconds in rung["part_seconds"].values())
        assert list(parity["alone_db"]) == parts
        # float32: none of them is far from PyTorch, and all together not farther than the worst by much.
        assert all(db is None or db > 90 for db in parity["alone_db"].values())
    outcome = cmexport("inspect", staged)
    assert outcome.code == 0, outcome.stderr
    assert "of a picture's time" in outcome.stdout
    assert sum("paint" in line and "%" in line for line in outcome.stdout.splitlines()) == 2


def test_the_seam(staged, folder, cmexport, tmp_path):
    """Parts in ONNX Runtime paint what the sampler paints as a whole, seed by seed, in each number of steps."""
    drawn = {}
    for steps in (1, 2):
        for subject in (staged, folder):
            asked = ("--steps", steps, "--count", 3, "--seed", 5)
            outcome = cmexport("sample", subject, *asked, "--save", tmp_path / "y.npz")
            assert outcome.code == 0, outcome.stderr
            drawn[steps, subject] = np.load(tmp_path / "y.npz")["image"]
        np.testing.assert_allclose(drawn[steps, staged], drawn[steps, folder], rtol=0, atol=1e-4)
    assert np.abs(drawn[1, staged] - drawn[2, staged]).max() > 1e-3
    outcome = cmexport("sample", staged, "--steps", 3, "-o", tmp_path / "grid.png")
    assert outcome.code == 2


def test_several_steps_are_for_parts_and_come_once(folder, cmexport, tmp_path):
    for options, said in (
        (("--steps", "1,2"), "--packaging staged"),
        (("--steps", "2,2", "--packaging", "staged"), "comes twice"),
        (("--steps", "1,many", "--packaging", "staged"), "a whole number is expected"),
    ):
        outcome = cmexport("onnx", folder, *options, "-o", tmp_path)
        assert (outcome.code, said in outcome.stderr) == (2, True), outcome.stderr
    assert not list(tmp_path.iterdir())


def test_it_is_verified_again_and_bench_says_what_it_wants(staged, cmexport):
    outcome = cmexport("verify", staged, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    outcome = cmexport("bench", staged)
    assert outcome.code == 2
    assert "--packaging one" in outcome.stderr


def test_core_ml_has_the_parts_as_functions_of_one_package(folder, cmexport, tmp_path):
    asked = ("--steps", "1,2", "--fp16", "--packaging", "staged", "--no-verify")
    outcome = cmexport("coreml", folder, *asked, "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    artefact = next(tmp_path.iterdir())
    manifest = json.loads((artefact / "manifest.json").read_text())
    assert [graph["name"] for graph in manifest["graphs"]] == ["encode", "paint_1", "decode", "paint_2"]
    (files,) = {tuple(graph["files"]) for graph in manifest["graphs"]}
    (weights,) = (artefact / path for path in files if path.endswith("weight.bin"))
    # Half precision, stored once; some layers stay float32.
    assert weights.stat().st_size < 1.5 * 2 * manifest["checkpoint"]["parameters"]
    for steps in (1, 2):
        asked = ("--steps", steps, "--prompt", "green car", "--count", 1)
        for subject, name in ((artefact, "y.npz"), (folder, "x.npz")):
            outcome = cmexport("sample", subject, *asked, "--save", tmp_path / name)
            assert outcome.code == 0, outcome.stderr
        drawn, expected = (np.load(tmp_path / name)["image"] for name in ("y.npz", "x.npz"))
        np.testing.assert_allclose(drawn, expected, rtol=0, atol=0.05)
    outcome = cmexport("verify", artefact, "--task", "1-step", "--seeds", 8)
    assert outcome.code == 0, outcome.stderr


def test_inspect_shows_the_memory_of_every_part(staged, cmexport):
    outcome = cmexport("inspect", staged, "--peak")
    assert outcome.code == 0, outcome.stderr
    assert "ONNX Runtime: predicted" in outcome.stdout
    rows = cmexport("inspect", staged, "--peak", "--json").json["peak"]
    assert [row["graph"] for row in rows] == ["encode", "paint_1", "decode", "paint_2"]
    weights = (staged / "weights.bin").stat().st_size
    for row in rows:
        assert row["why"] == ""
        assert 0 < row["weights"] <= weights + 50_000
        assert row["on_device"] == row["weights"] + row["live"] + row["workspace"] < row["predicted"]
        # Tiny graphs: all of it is the session's own.
        assert row["loaded"] <= row["measured"]
        assert row["weights"] < row["measured"] < 100e6
    assert rows[1]["live"] <= rows[3]["live"]


@pytest.mark.parametrize("subject", ["checkpoint", "missing"])
def test_peak_is_for_artefacts(folder, cmexport, tmp_path, subject):
    outcome = cmexport("inspect", folder if subject == "checkpoint" else tmp_path / "x.mlpackage", "--peak")
    assert outcome.code == 2
    assert "--peak: for an ONNX artefact" in outcome.stderr
    assert len(outcome.stderr.splitlines()) <= 3
