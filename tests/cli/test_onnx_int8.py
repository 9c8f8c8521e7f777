"""`cmexport onnx --int8`, plans and budgets, run as a user runs them."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from cmexport.artifact import read_manifest
from cmexport.cli.showing import show_planned
from cmexport.quantize import int8
from cmexport.quantize.calibration import CalibrationOptions
from cmexport.targets.onnx import budget

SETTINGS = (
    "--set",
    "image_size=8",
    "--set",
    "num_head_channels=32",
    "--set",
    "qkv_order=thirds",
    "--set",
    "levels=40",
    "--seeds",
    8,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(int8, "CalibrationOptions", partial(CalibrationOptions, pictures=8, gram_pictures=2))
    monkeypatch.setattr(budget, "STEPS", (0, 2))
    monkeypatch.setattr(budget, "latency_ratios", partial(budget.latency_ratios, turns=1, runs=2))


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    """An untrained network's last layers are zeros, which nothing can spoil."""
    generator = torch.Generator().manual_seed(0)
    state = torch.load(tiny_checkpoint)
    path = tmp_path_factory.mktemp("int8") / "net.pt"
    torch.save({k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in state.items()}, path)
    return path


INSIDE = ("input_blocks.1.0.in_layers.2", "middle_block.0.out_layers.3", "output_blocks.1.0.in_layers.2")


@pytest.fixture
def gentle(checkpoint, tmp_path_factory):
    """A plan of three layers in 8 bits: a random network with all of them there misses the gate."""
    state = torch.load(checkpoint)
    convs = [k.removesuffix(".weight") for k, v in state.items() if v.dim() > 2 and v.numel() >= 1024]
    path = tmp_path_factory.mktemp("plan") / "gentle.toml"
    lines = [f'"{k}" = "{"int8" if k in INSIDE else "float"}"' for k in convs]
    path.write_text("\n".join(["version = 1", "[layers]", *lines]))
    return path


def plan_of(folder):
    return json.loads((folder / "manifest.json").read_text())["numerics"]


def test_int8_is_verified_and_accounted_for(checkpoint, gentle, cmexport, tmp_path):
    outcome = cmexport("onnx", checkpoint, *SETTINGS, "-o", tmp_path, "--int8", "--plan", gentle)
    assert outcome.code == 0, outcome.stderr
    plan = plan_of(tmp_path / "net-onnx-int8")
    assert set(plan["int8"]) == set(INSIDE)
    assert plan["calibration_pictures"] == 8
    assert json.loads((tmp_path / "net-onnx-int8" / "manifest.json").read_text())["parity"]["passed"]


def test_a_quality_that_a_plan_keeps(checkpoint, cmexport, tmp_path):
    outcome = cmexport("onnx", checkpoint, *SETTINGS, "-o", tmp_path, "--budget-db", 41)
    assert outcome.code == 0, outcome.stderr
    plan = plan_of(tmp_path / "net-onnx-int8")
    assert plan["budget_db"] == 41
    assert plan["budget_met"]
    parity = json.loads((tmp_path / "net-onnx-int8" / "manifest.json").read_text())["parity"]
    assert parity["gate_db"] == 41
    assert "Plans measured" in outcome.stdout
    rows = [line for line in outcome.stdout.splitlines() if line.count("│") >= 5]
    assert len([r for r in rows if r.split("│")[1].strip()[:1].isdigit()]) >= len(plan["frontier"])


def test_an_impossible_quality_returns_4_and_keeps_the_best(checkpoint, cmexport, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "UNSEEN_DB", 200.0)
    outcome = cmexport("onnx", checkpoint, *SETTINGS, "-o", tmp_path, "--budget-db", 140, "--json")
    assert outcome.code == 4, outcome.stderr
    (folder,) = tmp_path.iterdir()
    assert (folder / "model.onnx").is_file()
    plan = plan_of(folder)
    assert not plan["budget_met"]
    # What was written is the best of those tried, whose pictures other pictures don't differ from by much.
    best, *others = sorted((p["db"] for p in plan["frontier"]), reverse=True)
    found = read_manifest(folder).parity.rungs[-1].difference.mean_db
    assert found == pytest.approx(best, abs=3.0)
    assert found > others[0] + 10.0
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()[-1]) < 400


def test_an_impossible_latency_returns_4_and_keeps_the_fastest(checkpoint, gentle, cmexport, tmp_path):
    outcome = cmexport(*("onnx", checkpoint, *SETTINGS, "-o", tmp_path, "--plan", gentle), *("--budget-latency", 0.01))
    assert outcome.code == 4, outcome.stderr
    assert (tmp_path / "net-onnx-int8" / "model.onnx").is_file()
    plan = plan_of(tmp_path / "net-onnx-int8")
    assert not plan["budget_met"]
    said = " ".join(outcome.stderr.split())
    assert "no plan takes 0.01 of float32's time here; the fastest" in said
    assert f"{plan['frontier'][0]['ratio']:g}" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget-db", 42, "--budget-latency", 0.5), "one budget at a time"),
        (("--budget-db", 42, "--fp16"), "one precision"),
        (("--budget-db", 42, "--precision", "fp32"), "one precision"),
        (("--budget-db", 300), "between 20 and 140"),
        (("--budget-db", "nan"), "between 20 and 140"),
        (("--budget-latency", 0), "between 0.01 and 2"),
        (("--budget-latency", "much"), "number"),
    ],
)
def test_contradictions_return_2_and_write_nothing(checkpoint, cmexport, tmp_path, arguments, words):
    outcome = cmexport("onnx", checkpoint, *SETTINGS, "-o", tmp_path / "out", *arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in " ".join(outcome.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('version = 1\n[layers]\n"input_blocks.1.0.in_layer.2" = "float"\n', "mean input_blocks.1.0.in_layers.2"),
        ("version = 7\n", "version must be 1"),
        ("not toml", "not TOML"),
        (None, "can't read this plan"),
    ],
)
def test_a_plan_for_another_model_or_none_returns_3(checkpoint, cmexport, tmp_path, text, words):
    path = tmp_path / "plan.toml"
    if text is not None:
        path.write_text(text)
    outcome = cmexport("onnx", checkpoint, *SETTINGS, "-o", tmp_path / "out", "--int8", "--plan", path)
    assert outcome.code == 3, outcome.stderr
    assert words in " ".join(outcome.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_plan_alone_means_int8(checkpoint, cmexport, tmp_path):
    path = tmp_path / "plan.toml"
    layers = '[layers]\n"input_blocks.1.0.in_layers.2" = "float"\n'
    path.write_text(f"version = 1\n[rounding]\nbias_correction = false\n{layers}")
    outcome = cmexport("onnx", checkpoint, *SETTINGS, "-o", tmp_path / "out", "--plan", path, "--no-verify")
    assert outcome.code == 0, outcome.stderr
    plan = plan_of(tmp_path / "out" / "net-onnx-int8")
    assert "input_blocks.1.0.in_layers.2" in plan["left_in_float"]
    assert plan["bias_correction"] is False
    unnamed = plan["not_in_plan"]
    assert {*unnamed, "input_blocks.1.0.in_layers.2"} == {*plan["int8"], *plan["left_in_float"]}
    assert f"{len(unnamed)} layers that the plan does not name" in outcome.stderr


def test_layers_without_a_form_are_named(capsys):
    account = {"not_spelled": ["out.2"], "not_in_plan": []}
    manifest = SimpleNamespace(function_names=("generate",), function=lambda _: SimpleNamespace(numerics=account))
    show_planned(manifest)
    out, err = capsys.readouterr()
    assert err == "no 8-bit form here, left in floating point: out.2\n"
    assert not out
