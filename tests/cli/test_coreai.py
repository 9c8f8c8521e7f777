"""`cmexport coreai` and what the other verbs do with its artefacts."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from support.networks import SETTINGS


@pytest.fixture(scope="module")
def written(tiny_checkpoint, cmexport, tmp_path_factory):
    """An artefact of two tasks in half precision, and what was printed."""
    pytest.importorskip("coreai_torch", reason="coreai-torch is not installed", exc_type=ImportError)
    out = tmp_path_factory.mktemp("coreai")
    arguments = ("--fp16", "--task", "generate,denoise", "--sigmas", "3", "--seeds", 8, "-o", out)
    outcome = cmexport("coreai", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-coreai-fp16", outcome


def test_an_artefact_says_what_ran_it_and_what_did_not(written):
    folder, outcome = written
    assert "Passed" in outcome.stdout
    assert "Core AI runtime" in outcome.stdout
    if sys.platform != "darwin":
        assert "its GPU and Neural Engine kernels were not run." in outcome.stdout
    names = {p.name for p in folder.iterdir()}
    lowered = {"generate.aimodel", "denoise.aimodel"}
    assert names == lowered | {"manifest.json", "preview.png", "preview-denoise.png", "golden"}


def test_the_asset_explains_itself(written):
    facts = json.loads((written[0] / "generate.aimodel/metadata.json").read_text())["creatorDefinedMetadata"]
    assert facts["cmexport.target"] == "coreai"
    assert facts["cmexport.sampling.sigmas"] == "3.0"
    assert len(facts["cmexport.checkpoint.sha256"]) == 64


def test_verify_takes_the_folder_or_an_asset(written, cmexport):
    outcome = cmexport("verify", written[0] / "denoise.aimodel", "--task", "denoise", "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    assert "Core AI runtime" in outcome.stdout


def test_sample_draws_from_the_asset(written, cmexport, tmp_path):
    outcome = cmexport("sample", written[0], "--task", "generate", "--count", 2, "--save", tmp_path / "y.npz")
    assert outcome.code == 0, outcome.stderr
    assert np.load(tmp_path / "y.npz")["image"].shape == (2, 3, 8, 8)


def test_inspect_shows_the_artefact(written, cmexport):
    outcome = cmexport("inspect", written[0] / "generate.aimodel")
    assert outcome.code == 0, outcome.stderr
    assert "tiny, coreai fp16" in outcome.stdout


def test_json_is_all_that_is_printed(tiny_checkpoint, cmexport, tmp_path, capfd):
    pytest.importorskip("coreai_torch", reason="coreai-torch is not installed", exc_type=ImportError)
    arguments = ("--output", "uint8", "--label", 1, "--seeds", 8, "--json", "-o", tmp_path)
    outcome = cmexport("coreai", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 0, outcome.stderr
    manifest = outcome.json["manifest"]
    assert manifest["graphs"][0]["signature"]["output"]["dtype"] == "uint8"
    assert manifest["session"]["options"] == {"half": False}
    assert [f["path"] for f in manifest["files"]] == [
        "model.aimodel/main.mlirb",
        "model.aimodel/main.hash",
        "model.aimodel/metadata.json",
        "preview.png",
        "golden/generate.inputs.npz",
        "golden/generate.expected.npz",
    ]
    # Compiled code writes past Python's streams.
    assert capfd.readouterr() == ("", "")
    assert outcome.stderr == ""


def test_a_damaged_artefact_is_refused(written, cmexport, tmp_path):
    folder = shutil.copytree(written[0], tmp_path / "copy")
    program = folder / "generate.aimodel/main.mlirb"
    program.write_bytes(program.read_bytes()[:-100])
    outcome = cmexport("sample", folder, "--task", "generate", "--save", tmp_path / "y.npz")
    assert outcome.code == 3
    assert "main.mlirb" in outcome.stderr


def test_wrong_options_are_refused(cmexport, tmp_path):
    for arguments, said in ((("--precision", "int8"), "this target has fp32, fp16"), (("--ios", 18), "--ios")):
        outcome = cmexport("coreai", *arguments, "-o", tmp_path / "out")
        assert outcome.code == 2
        assert said in outcome.stderr
    assert not list(tmp_path.glob("out/*"))


def test_help_says_that_it_is_a_beta(cmexport):
    outcome = cmexport("coreai", "--help")
    assert outcome.code == 0
    assert "Beta" in outcome.stdout


def test_without_apples_packages_one_sentence(cmexport, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coreai_torch", None)
    outcome = cmexport("coreai", "-o", tmp_path)
    assert outcome.code == 5
    assert "pip install 'cmexport[coreai]'" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
