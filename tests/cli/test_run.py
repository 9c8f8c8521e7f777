"""`cmexport run` with real steps, and what it says without running any."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TINY = """
[checkpoint]
file = "tiny.pt"
set = { image_size = 8, num_head_channels = 32 }
[targets.onnx]
seeds = 8
rewrites = "none"
[devices.local]
runs = 1
seconds = 0
energy = "off"
pictures = 1
"""


@pytest.fixture
def recipe(tiny_checkpoint, tmp_path) -> Path:
    (tmp_path / "tiny.pt").symlink_to(tiny_checkpoint)
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def run(recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "cmexport", "run", str(recipe), "-o", "out", "--json", *arguments]
    return subprocess.run(command, cwd=recipe.parent, capture_output=True, text=True, check=False, timeout=250)


def test_a_recipe_end_to_end_and_again(recipe) -> None:
    # A module of this name here must not be imported by the steps.
    (recipe.parent / "onnx.py").write_text("raise AssertionError('the wrong onnx')")
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert re.search(r"first picture after \d+ s: out/tiny-onnx-fp32/preview.png", done.stderr)
    assert [f["name"] for f in found["assumed"]] == ["qkv_order", "levels"]
    assert "assumed qkv_order=thirds (default of openai/consistency_models)" in " ".join(done.stderr.split())
    assert "self-check: " in done.stderr
    export, bench = found["steps"]
    assert (export["step"], export["status"], bench["step"], bench["status"]) == (
        *("onnx/fp32", "done"),
        *("bench:local", "done"),
    )
    assert export["parity_db"] >= export["gate_db"] == 100
    assert export["size_bytes"] == (recipe.parent / "out/tiny-onnx-fp32/model.onnx").stat().st_size
    records = (recipe.parent / "out/bench/local.jsonl").read_text().splitlines()
    assert [json.loads(line)["artifact"]["name"] for line in records] == ["tiny-onnx-fp32"]
    assert json.loads(records[0])["parity"]["passed"]
    assert list(bench["p50_ms"]) == ["tiny-onnx-fp32"]
    before = {p: p.stat().st_mtime_ns for p in (recipe.parent / "out").rglob("*.onnx")}
    again = run(recipe)
    assert [step["status"] for step in json.loads(again.stdout)["steps"]] == ["kept", "kept"]
    assert {p: p.stat().st_mtime_ns for p in (recipe.parent / "out").rglob("*.onnx")} == before


def test_a_faulty_recipe(cmexport, recipe) -> None:
    recipe.write_text(TINY + "[targets.corml]\n")
    outcome = cmexport("run", recipe)
    assert outcome.code == 2
    assert (
        f'{recipe}, line {len(TINY.splitlines()) + 1}: unknown target "corml"; did you mean "coreml"?' in outcome.stderr
    )
    outcome = cmexport("run", recipe.with_name("tny.toml"))
    assert outcome.code == 2
    assert "did you mean" in outcome.stderr
    assert list(recipe.parent.glob("out*")) == []


def test_a_missing_checkpoint(cmexport, tmp_path) -> None:
    name = RECIPES / "cd_imagenet64_l2.toml"
    outcome = cmexport("run", name, cwd=tmp_path)
    assert outcome.code == 2
    assert "cd_imagenet64_l2.toml, line 6: there is no checkpoint" in outcome.stderr
    assert "openaipublic" in outcome.stderr
    outcome = cmexport("run", name, "--dry-run", cwd=tmp_path)
    assert outcome.code == 0
    assert "onnx/fp16/two-steps" in outcome.stdout
    assert "--timesteps 22,0 --levels 40" in outcome.stdout
    assert "there is no checkpoint" in outcome.stderr
    outcome = cmexport("run", name, "--checkpoint", "nowhere.pt", "--dry-run", cwd=tmp_path)
    assert outcome.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_is_another_one(cmexport, recipe) -> None:
    recipe.write_text(TINY.replace("[targets.onnx]", f'sha256 = "{"0" * 64}"\n[targets.onnx]'))
    outcome = cmexport("run", recipe, cwd=recipe.parent)
    assert outcome.code == 3
    assert "tiny.toml, line 5: tiny.pt has the SHA-256 " in outcome.stderr
    assert not (recipe.parent / "out").exists()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_recipes_show_their_plan(cmexport, path, tmp_path) -> None:
    outcome = cmexport("run", path, "--dry-run", "--json", cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    steps = outcome.json["steps"]
    assert steps[-1]["step"] == "report"
    assert not any(step["done"] for step in steps)
    assert list(tmp_path.iterdir()) == []


def test_the_short_demo_is_part_of_the_long_one(cmexport) -> None:
    """The same exports, so that `make demo-all` goes on from `make demo`."""
    short, long = (
        {s["step"]: s["arguments"] for s in cmexport("run", RECIPES / name, "--dry-run", "--json").json["steps"]}
        for name in ("demo.toml", "demo-all.toml")
    )
    assert {"onnx/fp16", "coreml/fp16", "bench:local", "report"} <= set(short)
    assert all(long[step] == arguments for step, arguments in short.items() if step not in ("bench:local", "report"))


def test_the_long_demo_is_for_three_runtimes(cmexport) -> None:
    outcome = cmexport("run", RECIPES / "demo-all.toml", "--dry-run", "--json")
    steps = {step["step"]: step for step in outcome.json["steps"]}
    assert {"onnx/fp32", "onnx/fp16", "onnx/int8", "coreml/fp16", "coreml/w6", "bench:local", "report"} <= set(steps)
    assert steps["tensorrt/fp16"]["optional"]
