"""`cmexport plan`, run as a user runs it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tomllib

import pytest
import torch

from cmexport.cli import plan as verb
from cmexport.quantize.layer_scores import LayerScorer
from cmexport.quantize.precision_plan import read_plan

SETTINGS = ("--set", "image_size=8", "--set", "num_head_channels=32")
SMALL = ("--pictures", 2, "--calibration", 4)


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    """An untrained network's last layers are zeros, which nothing can spoil."""
    generator = torch.Generator().manual_seed(0)
    state = torch.load(tiny_checkpoint)
    path = tmp_path_factory.mktemp("plan") / "net.pt"
    torch.save({k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def scored(checkpoint, cmexport, tmp_path_factory):
    """A folder with a plan and its scores, and what the command said."""
    folder = tmp_path_factory.mktemp("scored")
    outcome = cmexport("plan", checkpoint, *SETTINGS, *SMALL, "--json", cwd=folder)
    assert outcome.code == 0, outcome.stderr
    return folder, outcome.json


@pytest.fixture
def no_scoring(monkeypatch):
    def score(self, codes):
        raise AssertionError("nothing is left to score")

    monkeypatch.setattr(LayerScorer, "score", score)


def test_a_plan_and_its_scores_are_written(scored):
    folder, said = scored
    assert sorted(p.name for p in folder.iterdir()) == [verb.STATE_FILE, "plan.toml"]
    assert said["plan"] == "plan.toml"
    written = read_plan(folder / "plan.toml")
    kept = json.loads((folder / verb.STATE_FILE).read_text())["layers"]
    rows = said["layers"]
    assert {r["layer"] for r in rows} == set(kept) == set(written.layers)
    assert len(rows) > 10
    assert all(written.layers[r["layer"]] == r["precision"] for r in rows)
    errors = [sum(kept[r["layer"]]["both"]["squared_errors"]) for r in rows]
    assert errors == sorted(errors, reverse=True)
    for row in rows:
        errors = kept[row["layer"]]["both"]["squared_errors"]
        assert len(errors) == 2
        assert row["psnr_db"]["both"] == pytest.approx(sum(10 * math.log10(4 / e) for e in errors) / 2)
        assert all(30 < row["psnr_db"][kind] < 150 for kind in ("weights", "activations", "both"))
        assert all(0.5 < row["ssim"][kind] <= 1 for kind in ("weights", "activations", "both"))
    inside = [kept[r["layer"]]["both"]["squared_errors"] for r in rows if r["precision"] == "int8"]
    sums = [sum(of_picture) for of_picture in zip(*inside, strict=True)]
    assert said["predicted_db"]["worst"] == pytest.approx(min(10 * math.log10(4 / s) for s in sums))
    assert said["moved_to_float"] == []
    text = (folder / "plan.toml").read_text()
    assert text.count("alone ") == len(rows)
    tomllib.loads(text)


def test_another_budget_costs_no_scoring(scored, checkpoint, cmexport, no_scoring, tmp_path):
    folder, before = scored
    state = ("--state", folder / verb.STATE_FILE)
    wanted = before["predicted_db"]["mean"] + 3
    found = cmexport(
        *("plan", checkpoint, *SETTINGS, *SMALL, *state, "-o", tmp_path / "p.toml", "--keep-db", wanted, "--json")
    )
    assert found.code == 0, found.stderr
    assert "going on with" in found.stderr
    assert found.json["predicted_db"]["mean"] >= wanted
    moved = found.json["moved_to_float"]
    eight_bits = [r["layer"] for r in before["layers"] if r["precision"] == "int8"]
    assert moved == eight_bits[: len(moved)]
    assert 0 < len(moved) < len(eight_bits)
    assert {k for k, v in read_plan(tmp_path / "p.toml").layers.items() if v == "int8"} == set(eight_bits[len(moved) :])

    all_float = cmexport(
        *("plan", checkpoint, *SETTINGS, *SMALL, *state, "-o", tmp_path / "p.toml", "--keep-db", 300, "--json")
    )
    assert all_float.json["predicted_db"] is None
    assert all_float.json["predicted_db_reason"] == "no layer is in 8 bits"
    assert set(read_plan(tmp_path / "p.toml").layers.values()) == {"float"}


def test_the_table_shows_the_worst_twelve(scored, checkpoint, cmexport, no_scoring):
    folder, before = scored
    outcome = cmexport("plan", checkpoint, *SETTINGS, *SMALL, "--keep-db", 300, cwd=folder)
    assert outcome.code == 0, outcome.stderr
    lines = [line for line in outcome.stdout.splitlines() if "│" in line]
    assert [line.split("│")[1].strip() for line in lines] == [r["layer"] for r in before["layers"][:12]]
    assert f"{before['layers'][0]['psnr_db']['both']:.1f}" in lines[0]
    assert "nothing is rounded" in outcome.stdout
    outcome = cmexport("plan", checkpoint, *SETTINGS, *SMALL, cwd=folder)
    assert f"{before['predicted_db']['mean']:.1f} dB" in outcome.stdout


def test_the_scores_of_something_else_are_not_mixed_in(scored, checkpoint, cmexport, tiny_checkpoint):
    folder, _ = scored
    before = (folder / "plan.toml").read_bytes(), (folder / verb.STATE_FILE).read_bytes()
    cases = [
        # Another checkpoint's plan may go, its scores may not.
        ((tiny_checkpoint, *SETTINGS, *SMALL, "--overwrite"), "checkpoint"),
        ((checkpoint, *SETTINGS, *SMALL, "--sigmas", "80,1.4"), "sigmas"),
        ((checkpoint, *SETTINGS, *SMALL, "--label", 1), "label"),
        ((checkpoint, *SETTINGS, *SMALL, "--set", "sigma_data=0.6"), "settings"),
        ((checkpoint, *SETTINGS, "--pictures", 3, "--calibration", 4), "pictures"),
        ((checkpoint, *SETTINGS, "--pictures", 2), "calibration"),
    ]
    for arguments, word in cases:
        outcome = cmexport("plan", *arguments, cwd=folder)
        assert outcome.code == 3, outcome.stderr
        assert "state of another plan" in outcome.stderr
        assert word in outcome.stderr
    assert ((folder / "plan.toml").read_bytes(), (folder / verb.STATE_FILE).read_bytes()) == before


def test_ctrl_c_keeps_what_is_scored_and_says_so(checkpoint, cmexport, tmp_path, monkeypatch):
    ordinary, calls = LayerScorer.score, []

    def interrupted(self, codes):
        calls.append(codes)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ordinary(self, codes)

    monkeypatch.setattr(LayerScorer, "score", interrupted)
    outcome = cmexport("plan", checkpoint, *SETTINGS, *SMALL, cwd=tmp_path)
    assert outcome.code == 130
    assert "2 of " in outcome.stderr
    assert "run again to go on" in outcome.stderr
    assert [p.name for p in tmp_path.iterdir()] == [verb.STATE_FILE]
    assert len(json.loads((tmp_path / verb.STATE_FILE).read_text())["layers"]) == 2


def test_two_steps_and_an_editing_task_are_planned_as_well(checkpoint, cmexport, tmp_path):
    for options in (("--sigmas", "80,1.4"), ("--task", "inpaint", "--sigmas", "80,1.4")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        outcome = cmexport("plan", checkpoint, *SETTINGS, "--pictures", 1, "--calibration", 2, *options, cwd=folder)
        assert outcome.code == 0, outcome.stderr
        assert len(read_plan(folder / "plan.toml").layers) > 10


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--jobs", 0), 2, "--jobs 0"),
        (("--pictures", 0), 2, "at least 1"),
        (("--calibration", 0), 2, "at least 1"),
        (("--keep-db", "nan"), 2, "--keep-db"),
        (("--keep-db", -5), 2, "--keep-db"),
        (("--keep-db", "inf"), 2, "--keep-db"),
        (("--task", "generate,inpaint"), 2, "one task per plan"),
        (("--task", "paint"), 2, "paint"),
        (("--steps", 2, "--sigmas", "80"), 2, "contradict"),
        (("--label", 7), 2, "--label 7"),
        (("-o", "none/plan.toml"), 3, "does not exist"),
        (("-o", "."), 3, "is a folder"),
        (("--state", "none/state.json"), 3, "--state"),
    ],
)
def test_refusals(checkpoint, cmexport, tmp_path, arguments, code, words):
    outcome = cmexport("plan", checkpoint, *SETTINGS, *SMALL, *arguments, cwd=tmp_path)
    assert outcome.code == code, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "row", "value", "words"),
    [
        ("out.2.weight", slice(None), math.nan, "out.2.weight"),
        ("out.2.weight", slice(None), 1e38, "nan"),
        # Only pictures of one class overflow, which nothing before calibration draws.
        ("label_emb.weight", 2, 3e38, "calibration: the input of"),
    ],
)
def test_nan_and_overflow_are_a_sentence(checkpoint, cmexport, tmp_path, name, row, value, words):
    state = torch.load(checkpoint)
    state[name][row] = value
    torch.save(state, tmp_path / "bad.pt")
    outcome = cmexport("plan", tmp_path / "bad.pt", *SETTINGS, *SMALL, cwd=tmp_path)
    assert outcome.code == 3, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 3
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pt"]


def test_another_checkpoints_plan_is_not_replaced_unasked(scored, tiny_checkpoint, cmexport, tmp_path, no_scoring):
    folder, _ = scored
    plan = tmp_path / "plan.toml"
    shutil.copy(folder / "plan.toml", plan)
    before = plan.read_bytes()
    arguments = ("plan", tiny_checkpoint, *SETTINGS, *SMALL, "-o", plan)
    refused = cmexport(*arguments)
    assert refused.code == 2
    assert f"{plan}: holds a plan of another checkpoint (SHA-256 {read_plan(plan).checkpoint[:12]});" in refused.stderr
    assert "--overwrite replaces it" in refused.stderr
    assert plan.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["plan.toml"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version = 1\n[layers]\n", "holds a plan of a checkpoint that it does not name"),
        ("shopping = ['milk']\n", "holds something else than a plan"),
    ],
)
def test_a_plan_of_unknown_origin_is_replaced_on_request_only(
    scored, checkpoint, cmexport, tmp_path, no_scoring, content, words
):
    plan = tmp_path / "plan.toml"
    plan.write_text(content)
    # The scores are kept, so that nothing is left to do but to write.
    arguments = ("plan", checkpoint, *SETTINGS, *SMALL, "-o", plan, "--state", scored[0] / verb.STATE_FILE)
    refused = cmexport(*arguments)
    assert refused.code == 2
    assert words in refused.stderr
    assert plan.read_text() == content
    assert cmexport(*arguments, "--overwrite").code == 0
    assert read_plan(plan).checkpoint == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert cmexport(*arguments, "--keep-db", 50).code == 0, "its own plan is replaced"
