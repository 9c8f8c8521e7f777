"""`cmexport init` writes recipes that `cmexport run` takes."""

from __future__ import annotations

import tomllib

import pytest
import torch

from cmexport.recipes.checking import check_document
from cmexport.recipes.planning import Chosen, plan_run
from cmexport.recipes.reading import read_document


def test_a_recipe_for_a_checkpoint(cmexport, tiny_checkpoint, tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    outcome = cmexport(
        "init",
        tiny_checkpoint,
        "-o",
        "sub/mine.toml",
        "--set",
        "image_size=8",
        "--set",
        "sigma_data=0.25",
        cwd=tmp_path,
    )
    assert outcome.code == 0, outcome.stderr
    document = read_document(tmp_path / "sub" / "mine.toml")
    recipe = check_document(document)
    plan = plan_run(document, recipe, Chosen())
    assert plan.checkpoint.samefile(tiny_checkpoint)
    assert recipe.checkpoint.set["image_size"] == "8"
    assert recipe.checkpoint.set["sigma_data"] == "0.25"
    assert "levels" in recipe.checkpoint.set, "a guess is listed"
    assert {"onnx", "coreml", "tensorrt"} == set(recipe.targets)
    assert recipe.description == "tiny: 8x8 pictures, 3 classes"
    text = (tmp_path / "sub" / "mine.toml").read_text()
    assert sum("#" in line for line in text.splitlines()) > 15
    assert "cmexport run sub/mine.toml --dry-run" in outcome.stdout


def test_what_is_commented_out_is_valid_too(cmexport, tiny_checkpoint, tmp_path) -> None:
    cmexport("init", tiny_checkpoint, "-o", tmp_path / "x.toml", "--set", "image_size=8")
    lines = (tmp_path / "x.toml").read_text().splitlines()
    bare = [
        line.removeprefix("# ") if line.startswith("# ") and ("=" in line or "# [" in line) else line for line in lines
    ]
    (tmp_path / "x.toml").write_text("\n".join(bare))
    recipe = check_document(read_document(tmp_path / "x.toml"))
    assert recipe.targets["onnx"].gate_db == {"fp16": 70}
    assert recipe.targets["onnx"].label == 0
    assert recipe.devices["phone"].device == "adb"
    assert recipe.schedules["two-steps"].steps == 2


def test_a_release_brings_its_tuned_levels(cmexport, tiny_checkpoint, tmp_path) -> None:
    path = tmp_path / "cd_imagenet64_l2.pt"
    path.write_bytes(tiny_checkpoint.read_bytes())
    outcome = cmexport("init", path, "--set", "image_size=8", "--set", "num_head_channels=32", cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    levels = tomllib.loads((tmp_path / "cd_imagenet64_l2.toml").read_text())["schedules"]["two-steps"]["sigmas"]
    assert levels == [80.0, pytest.approx(1.382368, abs=1e-6)]


def test_nothing_is_replaced_unasked(cmexport, tmp_path) -> None:
    assert cmexport("init", cwd=tmp_path).code == 0
    text = (tmp_path / "demo.toml").read_text()
    assert "file =" in text
    outcome = cmexport("init", cwd=tmp_path)
    assert outcome.code == 3
    assert "--force" in outcome.stderr
    (tmp_path / "demo.toml").write_text("mine")
    assert cmexport("init", "--force", cwd=tmp_path).code == 0
    assert (tmp_path / "demo.toml").read_text() == text
    assert cmexport("init", "-o", tmp_path).code == 3
    assert cmexport("init", tmp_path / "no.pt").code == 3


def test_names_that_TOML_must_escape(cmexport, tiny_checkpoint, tmp_path) -> None:  # noqa: N802
    path = tmp_path / 'a "b" \\ c.pt'
    torch.save(torch.load(tiny_checkpoint), path)
    assert cmexport("init", path, "-o", tmp_path / "x.toml", "--set", "image_size=8").code == 0
    document = read_document(tmp_path / "x.toml")
    assert plan_run(document, check_document(document), Chosen()).checkpoint == path
