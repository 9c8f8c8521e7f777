"""`cmexport coreml` and what the other verbs do with its artefacts."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.networks import SETTINGS

pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def written(tiny_checkpoint, cmexport, tmp_path_factory):
    """An artefact of two tasks in half precision, and what was printed."""
    out = tmp_path_factory.mktemp("coreml")
    arguments = ("--fp16", "--task", "generate,denoise", "--sigmas", "3", "--seeds", 8, "-o", out)
    outcome = cmexport("coreml", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-coreml-fp16", outcome


def test_an_artefact_says_what_was_verified_and_what_was_not(written):
    folder, outcome = written
    assert "Passed" in outcome.stdout
    assert "Core ML, ideal" in outcome.stdout
    assert "verified by executing the saved program; Apple's kernels were not run." in outcome.stdout
    names = {p.name for p in folder.iterdir()}
    assert names == {"model.mlpackage", "manifest.json", "preview.png", "preview-denoise.png", "golden"}


def test_the_package_explains_itself(written):
    from coremltools.proto import Model_pb2

    message = Model_pb2.Model()
    message.ParseFromString((written[0] / "model.mlpackage/Data/com.apple.CoreML/model.mlmodel").read_bytes())
    facts = message.description.metadata.userDefined
    assert facts["cmexport.target"] == "coreml"
    assert facts["cmexport.sampling.sigmas"] == "3.0"
    assert len(facts["cmexport.checkpoint.sha256"]) == 64


def test_verify_takes_the_folder_or_the_package(written, cmexport):
    folder, _ = written
    outcome = cmexport("verify", folder / "model.mlpackage", "--task", "denoise", "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    assert "Apple's kernels were not run" in outcome.stdout


def test_blame_looks_into_each_function(written, cmexport):
    folder, _ = written
    both = cmexport("verify", folder, "--blame", "--json").json["functions"]
    assert {name: (facts["healthy"], facts["keep_fp32"]) for name, facts in both.items()} == {
        "generate": (True, []),
        "denoise": (True, []),
    }
    one = cmexport("verify", folder / "model.mlpackage", "--blame", "--task", "denoise")
    assert one.code == 0, one.stderr
    assert one.stdout.count("Nothing is worth keeping in float32.") == 1


def test_sample_draws_from_the_package(written, cmexport, tmp_path):
    outcome = cmexport("sample", written[0], "--count", 2, "--save", tmp_path / "y.npz")
    assert outcome.code == 0, outcome.stderr
    assert np.load(tmp_path / "y.npz")["image"].shape == (2, 3, 8, 8)


def test_inspect_shows_a_package_with_and_without_its_artefact(written, cmexport, tmp_path):
    package = written[0] / "model.mlpackage"
    with_manifest = cmexport("inspect", package)
    assert with_manifest.code == 0, with_manifest.stderr
    assert "tiny, coreml fp16" in with_manifest.stdout
    package_alone = tmp_path / "lone.mlpackage"
    package_alone.symlink_to(package, target_is_directory=True)
    alone = cmexport("inspect", package_alone)
    assert alone.code == 0, alone.stderr
    unfolded = " ".join(alone.stdout.split())  # where a line folds depends on how long the path is
    for said in ("function generate:", "function denoise:", "float16", "instance_norm", "iOS 18", "Neural Engine"):
        assert said in unfolded
        assert said in with_manifest.stdout
    facts = cmexport("inspect", package_alone, "--json").json["package"]
    assert set(facts["functions"]) == {"generate", "denoise"}
    assert facts["functions"]["generate"]["precisions"] == ["float16"]
    assert facts["functions"]["generate"]["operations"]["scaled_dot_product_attention"] >= 1


def test_a_lone_package_that_is_none_is_refused(cmexport, tmp_path):
    (tmp_path / "x.mlpackage").mkdir()
    outcome = cmexport("inspect", tmp_path / "x.mlpackage")
    assert outcome.code == 3
    assert "x.mlpackage" in outcome.stderr


def test_image_output_for_an_older_release(tiny_checkpoint, cmexport, tmp_path):
    arguments = ("--output", "image", "--ios", 16, "--label", 1, "--seeds", 8, "--json", "-o", tmp_path)
    outcome = cmexport("coreml", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 0, outcome.stderr
    manifest = outcome.json["manifest"]
    assert manifest["graphs"][0]["signature"]["output"]["dtype"] == "uint8"
    assert manifest["session"]["options"] == {"ios": 16, "half": False}
    assert manifest["parity"]["output"] == "uint8"
    assert next(f["path"] for f in manifest["files"]) == "model.mlpackage/Manifest.json"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--ios", 15), "--ios 15: known are 16, 17, 18"),
        (("--output", "bytes"), "--output bytes: known are float and image"),
        (("--precision", "int3"), "this target has fp32, fp16"),
        (("--output", "image", "--batch", 2), "a Core ML image output holds one picture"),
    ],
)
def test_wrong_options_are_refused(tiny_checkpoint, cmexport, tmp_path, arguments, said):
    outcome = cmexport("coreml", tiny_checkpoint, *SETTINGS, *arguments, "-o", tmp_path / "out")
    assert outcome.code == 2
    assert said in outcome.stderr
    assert not list(tmp_path.glob("out/*"))


def test_without_coremltools_one_sentence(cmexport, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    outcome = cmexport("coreml", "-o", tmp_path)
    assert outcome.code == 5
    assert "pip install 'cmexport[coreml]'" in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1
