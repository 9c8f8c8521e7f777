"""Few steps and editing, run as a user runs them: what is written, what is said, what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from PIL import Image
from support.networks import SETTINGS


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "photo.png")
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / "wide.png")
    mask = np.full((8, 8), 255, dtype=np.uint8)
    mask[2:6, 2:6] = 0
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.repeat(mask, 2, axis=0)).save(folder / "tall.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def inpaint(tiny_checkpoint, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("inpaint")
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", out, "--seeds", 8, "--task", "inpaint", "--steps", 2)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-onnx-fp32"


def test_an_editing_artefact_explains_itself_and_verifies_again(inpaint, cmexport):
    manifest = json.loads((inpaint / "manifest.json").read_text())
    assert manifest["task"] == "inpaint"
    assert manifest["patch"] is None
    assert [t["name"] for t in manifest["graphs"][0]["signature"]["inputs"]] == [
        "noise",
        "renoise",
        "label",
        "image",
        "mask",
    ]
    assert manifest["parity"]["passed"]
    facts = {p.key: p.value for p in onnx.load(inpaint / "model.onnx").metadata_props}
    assert facts["cmexport.task"] == "inpaint"
    assert cmexport("verify", inpaint, "--seeds", 8).code == 0
    assert "task inpaint, 2 step(s)" in cmexport("inspect", inpaint).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--task", "superres", "--patch", 4, "--steps", 1),
        ("--task", "colorize", "--steps", 1, "--output", "uint8"),
        ("--task", "stroke", "--label", 1),
        ("--task", "denoise", "--sigmas", 0.5, "--batch", 2),
    ],
    ids=lambda a: a[1],
)
def test_every_task_exports_verifies_and_verifies_again(tiny_checkpoint, cmexport, tmp_path, arguments):
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path, "--seeds", 8, *arguments)
    assert outcome.code == 0, outcome.stderr
    folder = tmp_path / "tiny-onnx-fp32"
    again = cmexport("verify", folder, "--seeds", 8, "--json")
    assert again.code == 0, again.stderr
    assert again.json["parity"]["rungs"][-1]["difference"]["mean_db"] is None or again.json["parity"]["passed"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["patch"] == (4 if "superres" in arguments else None)


def test_checkpoint_and_artefact_paint_the_same_and_keep_what_is_known(
    inpaint, tiny_checkpoint, files, cmexport, tmp_path
):
    given = ("--image", files / "photo.png", "--mask", files / "mask.png", "--label", 1, "--seed", 5)
    task = ("--task", "inpaint", "--steps", 2)
    first = cmexport("sample", inpaint, *given, "--save", tmp_path / "a.npz", "-o", tmp_path / "a.png")
    assert first.code == 0, first.stderr
    second = cmexport("sample", tiny_checkpoint, *SETTINGS, *task, *given, "--save", tmp_path / "b.npz", "--json")
    assert second.code == 0, second.stderr
    assert second.json["task"] == "inpaint"
    a, b = np.load(tmp_path / "a.npz")["image"], np.load(tmp_path / "b.npz")["image"]
    np.testing.assert_allclose(a, b, atol=1e-5)
    photo = np.asarray(Image.open(files / "photo.png")).transpose(2, 0, 1)
    kept = np.asarray(Image.open(files / "mask.png")) == 255
    assert np.array_equal(np.rint((a[0] + 1.0) * 127.5)[:, kept], photo[:, kept])
    assert not np.array_equal(np.rint((a[0] + 1.0) * 127.5), photo)
    # before | masked | after, each enlarged twelve times, under a caption
    assert Image.open(tmp_path / "a.png").size == (3 * (96 + 8), 96 + 8 + 18)


def test_without_a_label_every_class_is_tried_and_resizing_is_said(inpaint, files, cmexport, tmp_path):
    shutil.copy(files / "wide.png", tmp_path / "mask.png")
    given = ("--image", files / "wide.png", "--mask", tmp_path / "mask.png")
    outcome = cmexport("sample", inpaint, *given, "--save", tmp_path / "a.npz")
    assert outcome.code == 0, outcome.stderr
    assert len(np.load(tmp_path / "a.npz")["image"]) == 3
    assert "middle 20 x 20 of 30 x 20" in " ".join(outcome.stderr.split())


@pytest.mark.parametrize(
    "task", [("colorize",), ("superres", "--patch", 2), ("stroke",), ("denoise", "--sigmas", "0.4")]
)
def test_every_task_draws_from_a_checkpoint(tiny_checkpoint, files, cmexport, tmp_path, task):
    steps = () if "denoise" in task else ("--steps", 2)
    arguments = ("--task", *task, *steps, "--image", files / "photo.png", "--label", 0, "-o", tmp_path / "x.png")
    outcome = cmexport("sample", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 0, outcome.stderr
    tiles = 3 if task[0] in ("colorize", "superres") else 2
    assert Image.open(tmp_path / "x.png").size[0] == tiles * 104


def test_interpolation_meets_both_seeds(tiny_checkpoint, cmexport, tmp_path):
    def draw(*arguments):
        command = ("sample", tiny_checkpoint, *SETTINGS, "--steps", 2, "--save", tmp_path / "x.npz", *arguments)
        outcome = cmexport(*command)
        assert outcome.code == 0, outcome.stderr
        return np.load(tmp_path / "x.npz")["image"]

    way = draw("--interpolate", "3,8", "--count", 5, "--label", 2)
    assert len(way) == 5
    for picture, seed in ((way[0], 3), (way[-1], 8)):
        np.testing.assert_allclose(picture, draw("--seed", seed, "--count", 1, "--label", 2)[0], atol=1e-6)
    assert len(draw("--interpolate", "3,8")) == 8


def test_released_names_get_their_tuned_steps_and_say_so(tiny_checkpoint, cmexport, tmp_path):
    path = tmp_path / "cd_imagenet64_l2.pt"
    shutil.copy(tiny_checkpoint, path)
    outcome = cmexport("onnx", path, *SETTINGS, "-o", tmp_path / "out", "--steps", 2, "--no-verify", "--json")
    assert outcome.code == 0, outcome.stderr
    sampling = outcome.json["manifest"]["sampling"]
    assert sampling["sigmas"] == [80.0, pytest.approx(1.382368, abs=1e-6)]
    assert sampling["schedule"] == "tuned two-step schedule of cd_imagenet64_l2"
    shown = cmexport("inspect", path, *SETTINGS, "--json").json["two_steps"]
    assert shown["sigmas"] == sampling["sigmas"]
    assert "tuned" in " ".join(cmexport("inspect", tmp_path / "out" / "cd_imagenet64_l2-onnx-fp32").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--task", "paint"), 2, "--task paint"),
        (("--task", "superres"), 2, "--patch"),
        (("--task", "superres", "--patch", 3), 2, "divide"),
        (("--patch", 4), 2, "superres"),
        (("--task", "denoise"), 2, "--sigmas"),
        (("--task", "denoise", "--sigmas", "2,1"), 2, "one evaluation"),
        (("--task", "inpaint", "--steps", 0), 2, "--steps 0"),
        (("--task", "inpaint", "--sigmas", "1,80"), 2, "descend"),
        (("--task", "inpaint", "--label", 3), 2, "0 to 2"),
        (("--steps", 201), 2, "--steps 201"),
    ],
)
def test_onnx_refuses_in_a_sentence(tiny_checkpoint, cmexport, tmp_path, arguments, code, words):
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path / "out", *arguments)
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "--image"),
        (("--image", "{}/photo.png"), 2, "--mask"),
        (("--mask", "{}/mask.png"), 2, "--image"),
        (("--image", "{}/none.png", "--mask", "{}/mask.png"), 3, "none.png"),
        (("--image", "{}/text.png", "--mask", "{}/mask.png"), 3, "text.png"),
        (("--image", "{}/photo.png", "--mask", "{}/tall.png"), 3, "8 x 16"),
        (("--image", "{}/photo.png", "--mask", "{}/mask.png", "--label", 3), 2, "0 to 2"),
        (("--image", "{}/photo.png", "--mask", "{}/mask.png", "--task", "colorize"), 2, "inpaint"),
        (("--image", "{}/photo.png", "--mask", "{}/mask.png", "--steps", 3), 2, "fixed"),
        (("--interpolate", "1,2"), 2, "inpaint"),
        (("--interpolate", "1"), 2, "two seeds"),
        (("--inputs", "x.npz", "--image", "{}/photo.png"), 2, "contradict"),
    ],
)
def test_sample_refuses_in_a_sentence(inpaint, files, cmexport, tmp_path, arguments, code, words):
    given = [str(a).format(files) for a in arguments]
    outcome = cmexport("sample", inpaint, "-o", "x.png", *given, cwd=tmp_path)
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.iterdir())


def test_generating_takes_no_picture(tiny_artifact, files, cmexport, tmp_path):
    outcome = cmexport("sample", tiny_artifact, "-o", tmp_path / "x.png", "--image", files / "photo.png")
    assert outcome.code == 2
    assert "--task" in outcome.stderr


def test_labels_out_of_range_in_given_inputs_are_refused(tiny_checkpoint, cmexport, tmp_path):
    np.savez(tmp_path / "x.npz", noise=np.zeros((1, 3, 8, 8), np.float32), label=np.array([3]))
    arguments = ("--inputs", tmp_path / "x.npz", "--save", tmp_path / "y.npz")
    outcome = cmexport("sample", tiny_checkpoint, *SETTINGS, *arguments)
    assert outcome.code == 3, outcome.stderr
    assert "0 to 2" in outcome.stderr
