"""Guesses are said aloud: on stderr by every verb, in its JSON, in the manifest, the file and the report."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
import torch
from support.networks import noisy_checkpoint, tiny_config

from cmexport.artifact import read_manifest
from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.selfcheck import check_on_pictures
from cmexport.cli.assumed import verdict
from cmexport.demo import demo_checkpoint

GUESSED = {
    "image_size": "assumed image_size=16 (guess from 2 resolution levels); to set it: --set image_size=16",
    "num_head_channels": "assumed num_head_channels=64 (width of the released models); to set it: --set "
    "num_head_channels=64",
    "qkv_order": "assumed qkv_order=thirds",
    "levels": "assumed levels=40",
}
TOLD = ("--set", "image_size=8", "--set", "num_head_channels=32", "--set", "qkv_order=thirds", "--set", "levels=40")


@pytest.fixture(scope="module")
def guessed(cmexport, tmp_path_factory):
    """A checkpoint that leaves four settings to guess, its artefact, and what exporting it said."""
    folder = tmp_path_factory.mktemp("guessed")
    path = noisy_checkpoint(folder / "mine.pt", tiny_config())
    outcome = cmexport("onnx", path, "-o", folder, "--seeds", 8, "--json")
    assert outcome.code == 0, outcome.stderr
    return path, folder / "mine-onnx-fp32", outcome


def flat(text):
    """Lines as one: the console folds at 120 columns."""
    return " ".join(text.split())


def test_an_export_says_its_guesses_and_what_pictures_say_of_them(guessed):
    _, folder, outcome = guessed
    said = flat(outcome.stderr)
    for line in GUESSED.values():
        assert line in said
    assert "self-check: " in said
    facts = outcome.json  # one object and nothing else
    assert [f["option"] for f in facts["assumed"]] == [
        "--set image_size=16",
        "--set num_head_channels=64",
        "--set qkv_order=thirds",
        "--set levels=40",
    ]
    assert facts["manifest"]["assumed"] == facts["assumed"]
    assert facts["manifest"]["self_check"]
    manifest = read_manifest(folder)
    assert [(a.name, a.value) for a in manifest.assumed] == [
        ("image_size", 16),
        ("num_head_channels", 64),
        ("qkv_order", "thirds"),
        ("levels", 40),
    ]
    props = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    assert props["cmexport.assumed"].startswith("image_size=16 (guess from 2 resolution levels); num_head_channels=64")


def test_manifests_older_than_the_field_are_read(guessed, tmp_path):
    shutil.copytree(guessed[1], tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    content = json.loads(path.read_text())
    del content["assumed"], content["self_check"]
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path / "old").assumed == ()


@pytest.mark.parametrize("verb", ["sample", "plan", "inspect", "init"])
def test_other_verbs_say_them_too(verb, guessed, cmexport, tmp_path):
    arguments = {
        "sample": ("--save", tmp_path / "y.npz", "--count", 1),
        "plan": ("-o", tmp_path / "plan.toml", "--pictures", 1, "--calibration", 1),
        "inspect": ("--no-check",),
        "init": ("-o", tmp_path / "r.toml"),
    }[verb]
    outcome = cmexport(verb, guessed[0], *arguments, "--json")
    assert outcome.code == 0, outcome.stderr
    assert all(line in flat(outcome.stderr) for line in GUESSED.values())
    found = outcome.json["assumed"]
    assert [f if isinstance(f, str) else f["name"] for f in found] == list(GUESSED)
    refused = cmexport(verb, guessed[0], *arguments[:1], *arguments[1:], "--strict", *(["--force"] * (verb == "init")))
    assert refused.code == 3
    assert "--set image_size=16 --set num_head_channels=64" in flat(refused.stderr)


def test_verify_says_them_and_bench_says_what_the_export_had_guessed(guessed, cmexport, tmp_path):
    _, folder, _ = guessed
    verified = cmexport("verify", folder, "--seeds", 8, "--json")
    assert GUESSED["num_head_channels"] in flat(verified.stderr)
    assert [f["name"] for f in verified.json["assumed"]] == list(GUESSED)
    assert cmexport("verify", folder, "--seeds", 8, "--strict").code == 3
    drawn = cmexport("sample", folder, "--save", tmp_path / "y.npz", "--count", 1, "--json")
    assert "exported with an assumed num_head_channels=64" in flat(drawn.stderr)
    assert [f["name"] for f in drawn.json["assumed"]] == list(GUESSED)
    page = cmexport("report", folder, "-o", tmp_path / "report.html")
    assert page.code == 0, page.stderr
    assert "Assumed of mine.pt: image_size=16" in (tmp_path / "report.html").read_text()


def test_strict_refuses_before_any_work(guessed, cmexport, tmp_path):
    outcome = cmexport("onnx", guessed[0], "-o", tmp_path / "out", "--strict")
    assert outcome.code == 3
    assert len(outcome.stderr.strip().splitlines()) <= 5
    assert not (tmp_path / "out").exists()
    told = cmexport("sample", guessed[0], *TOLD, "--strict", "--count", 1, "--save", tmp_path / "y.npz")
    assert told.code == 0, told.stderr
    assert told.stderr == ""


def test_the_demo_leaves_nothing_to_guess(cmexport, tmp_path):
    outcome = cmexport("sample", "--count", 1, "--save", tmp_path / "y.npz", "--strict")
    assert outcome.code == 0, outcome.stderr
    assert "assumed" not in outcome.stderr
    assert "self-check" not in outcome.stderr


def test_other_head_counts_are_tried_where_heads_are_guessed(tmp_path):
    """The demo's weights under another name. Its pictures hardly tell 2 heads from 8, and then no advice is given."""
    path = tmp_path / "mine.pt"
    torch.save(torch.load(demo_checkpoint(), weights_only=True), path)
    model = load_checkpoint(path)
    assert "num_head_channels" in {s.name for s in model.assumed}
    check = check_on_pictures(model)
    # Heads of 64 channels are two in its blocks of 128.
    assert {r.fields.get("num_heads") for r in check.interpretations} - {None} == {"1", "4", "8"}
    assert check.chosen.fields["num_head_channels"] == "64"
    assert check.chosen.error < 1.05 * check.interpretations[0].error
    assert not any("--set" in warning for warning in check.warnings)
    assert any("can't tell" in line for line in verdict(check, model.assumed))


def test_verify_reads_the_checkpoint_as_the_export_did(guessed, cmexport, monkeypatch):
    """Another version of the rules guesses otherwise; what is compared is the reading that the file holds."""
    path, folder, _ = guessed
    monkeypatch.setattr("cmexport.checkpoints.openai._SIZE_BY_LEVELS", {2: 24})
    told = cmexport("inspect", path, "--no-check", "--json")
    assert {s["name"]: s["value"] for s in told.json["settings"]}["image_size"] == 24
    for against in ((), ("--against", path)):
        verified = cmexport("verify", folder, "--seeds", 8, "--json", *against)
        assert verified.code == 0, verified.stderr
        assert GUESSED["image_size"] in flat(verified.stderr)
        assert [f["name"] for f in verified.json["assumed"]] == list(GUESSED), "guesses stay guesses"
    assert cmexport("verify", folder, "--seeds", 8, "--set", "image_size=24").code == 3, "--set still decides"


NOT_LEVELS = TOLD[:-2]


def test_the_number_of_levels_is_no_guess_where_nothing_depends_on_it(guessed, cmexport, tmp_path):
    def strictly(*arguments):
        return cmexport(
            *("sample", guessed[0], *NOT_LEVELS, "--strict", "--count", 1, "--save", tmp_path / "y.npz", *arguments)
        )

    for schedule in ((), ("--steps", 1), ("--sigmas", "80,1.4"), ("--timesteps", "22,0", "--levels", 40)):
        done = strictly(*schedule)
        assert done.code == 0, (schedule, done.stderr)
    for schedule in (("--steps", 3), ("--timesteps", "22,0")):
        done = strictly(*schedule)
        assert done.code == 3, schedule
        assert "confirm or correct with: --set levels=40" in flat(done.stderr)


@pytest.mark.parametrize("verb", ["onnx", "plan"])
def test_exports_and_plans_take_one_step_strictly(verb, guessed, cmexport, tmp_path):
    small = {"onnx": ("--seeds", 8), "plan": ("--pictures", 1, "--calibration", 1)}[verb]
    place = tmp_path / {"onnx": "out", "plan": "plan.toml"}[verb]
    done = cmexport(verb, guessed[0], *NOT_LEVELS, "--strict", "-o", place, *small)
    assert done.code == 0, done.stderr
    refused = cmexport(verb, guessed[0], *NOT_LEVELS, "--strict", "-o", place, *small, "--steps", 3)
    assert refused.code == 3
