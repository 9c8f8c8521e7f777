"""`cmexport onnx --sampler heun`: what it writes, what reads it, what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from support.networks import SETTINGS

from cmexport.checkpoints import load_checkpoint
from cmexport.cli.options import ScheduleText
from cmexport.cli.requests import resolve_schedule

FIELDS = {"image_size": "8", "num_head_channels": "32"}


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("heun")
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", out, "--sampler", "heun", "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    return out / "tiny-heun18-onnx-fp32"


def test_the_manifest_lists_every_evaluation(folder) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    sampling = manifest["sampling"]
    assert (sampling["sampler"], manifest["name"]) == ("heun", "tiny-heun18")
    assert len(sampling["sigmas"]) == len(sampling["evaluations"]) == 35
    assert [i["name"] for i in manifest["graphs"][0]["signature"]["inputs"]] == ["noise", "label"]
    assert manifest["parity"]["passed"]


def test_verify_and_sample_take_it(folder, cmexport, tmp_path) -> None:
    outcome = cmexport("verify", folder, "--seeds", 8)
    assert outcome.code == 0, outcome.stderr
    np.savez(tmp_path / "x.npz", noise=np.zeros((1, 3, 8, 8), np.float32), label=np.array([1]))
    outcome = cmexport("sample", folder, "--inputs", tmp_path / "x.npz", "--save", tmp_path / "y.npz")
    assert outcome.code == 0, outcome.stderr
    assert np.load(tmp_path / "y.npz")["image"].shape == (1, 3, 8, 8)
    assert "heun" in cmexport("inspect", folder).stdout.lower()


def test_verify_sees_another_sampler(folder, cmexport, tmp_path) -> None:
    changed = shutil.copytree(folder, tmp_path / folder.name)
    manifest = json.loads((changed / "manifest.json").read_text())
    # The file has 18 levels from 80 down; its manifest now says 17.
    manifest["sampling"]["sigmas"] = manifest["sampling"]["sigmas"][:33]
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert cmexport("verify", changed, "--seeds", 8).code == 4


def test_bench_counts_the_evaluations(folder) -> None:
    from cmexport.artifact import read_manifest
    from cmexport.bench.jobs import artifact_record

    record = artifact_record(folder, read_manifest(folder))
    assert (record.name, record.steps) == (folder.name, 35)


def test_steps_and_levels_are_the_users(tiny_checkpoint, cmexport, tmp_path) -> None:
    # One export takes seconds; --steps alone decides on levels, and on nothing else.
    assert (
        len(resolve_schedule(load_checkpoint(tiny_checkpoint, FIELDS), ScheduleText(steps=4), sampler="heun").sigmas)
        == 4
    )
    common = ("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path, "--sampler", "heun", "--no-verify", "--json")
    given = cmexport(*common, "--sigmas", "40,2,0.1", "--fp16").json
    assert given["folder"].endswith("tiny-heun3-onnx-fp16")
    assert given["manifest"]["sampling"]["sigmas"] == [40.0, 2.0, 2.0, 0.1, 0.1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--int8",), "fp32 and fp16"),
        (("--w8",), "fp32 and fp16"),
        (("--budget-db", "40"), "fp32 and fp16"),
        (("--task", "inpaint"), "only generates"),
        (("--task", "generate,inpaint"), "only generates"),
        (("--steps", "1"), "--steps 1"),
        (("--sigmas", "80"), "2 to 200"),
        (("--steps", "3", "--sigmas", "80,1"), "contradict"),
        (("--label", "3"), "0 to 2"),
        (("--sampler", "ddim"), "consistency, heun"),
    ],
)
def test_wrong_usage(tiny_checkpoint, cmexport, tmp_path, arguments, words) -> None:
    out = tmp_path / "out"
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", out, "--sampler", "heun", *arguments)
    assert outcome.code == 2, outcome.stderr
    assert words in outcome.stderr
    assert len(outcome.stderr.splitlines()) <= 3
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("verb", ["coreml", "tensorrt"])
def test_other_targets_do_not_have_it(tiny_checkpoint, cmexport, tmp_path, verb) -> None:
    outcome = cmexport(verb, tiny_checkpoint, "--sampler", "heun", "-o", tmp_path)
    assert outcome.code == 2
    assert "--sampler" in outcome.stderr
