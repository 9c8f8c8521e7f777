"""Several tasks in one command: one artefact, a graph for each, all of them listed, verified and usable."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image
from support.networks import SETTINGS

TASKS = ("generate", "inpaint", "superres")


@pytest.fixture(scope="module")
def several(tiny_checkpoint, cmexport, tmp_path_factory):
    out = tmp_path_factory.mktemp("several")
    tasks = ("--task", ",".join(TASKS), "--patch", 4, "--steps", 2)
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", out, "--seeds", 8, *tasks)
    assert outcome.code == 0, outcome.stderr
    assert [line for line in outcome.stdout.splitlines() if line in {f"{t}:" for t in TASKS}] == [
        "generate:",
        "inpaint:",
        "superres:",
    ]
    return out / "tiny-onnx-fp32"


def test_the_manifest_lists_every_graph_with_its_own_files_and_figures(several):
    manifest = json.loads((several / "manifest.json").read_text())
    assert [f["name"] for f in manifest["functions"]] == list(TASKS)
    assert manifest["task"] == "generate"
    assert manifest["runs"] == {task: [task] for task in TASKS}
    graphs = {g["name"]: g for g in manifest["graphs"]}
    assert [f["patch"] for f in manifest["functions"]] == [None, None, 4]
    listed = {f["path"]: f["role"] for f in manifest["files"]}
    assert set(listed) == {
        p.relative_to(several).as_posix() for p in several.rglob("*") if p.is_file() and p.name != "manifest.json"
    }
    for function in manifest["functions"]:
        assert function["parity"]["passed"]
        assert all(path in listed for path in function["files"])
        model = onnx.load(several / function["files"][0])
        assert [i.name for i in model.graph.input] == [
            i["name"] for i in graphs[function["name"]]["signature"]["inputs"]
        ]
        facts = {p.key: p.value for p in model.metadata_props}
        assert facts["cmexport.task"] == function["task"]


def test_each_graph_draws_what_it_draws_alone(several, tiny_checkpoint, cmexport, tmp_path):
    alone = cmexport(
        *("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path, "--task", "inpaint", "--steps", 2, "--no-verify")
    )
    assert alone.code == 0, alone.stderr
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "photo.png")
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    given = ("--image", tmp_path / "photo.png", "--mask", tmp_path / "mask.png")
    for folder, name, task in ((several, "a", ("--task", "inpaint")), (tmp_path / "tiny-onnx-fp32", "b", ())):
        outcome = cmexport("sample", folder, *task, *given, "--save", tmp_path / f"{name}.npz")
        assert outcome.code == 0, outcome.stderr
    a, b = (np.load(tmp_path / f"{n}.npz")["image"] for n in "ab")
    np.testing.assert_array_equal(a, b)


def test_verify_climbs_all_ladders_or_one(several, tiny_checkpoint, cmexport):
    every = cmexport("verify", several, "--seeds", 8, "--json")
    assert every.code == 0, every.stderr
    assert list(every.json["functions"]) == list(TASKS)
    one = cmexport("verify", several, "--seeds", 8, "--json", "--task", "superres")
    assert one.json["parity"]["passed"]
    assert cmexport("inspect", several).stdout.count("task ") == 3


@pytest.mark.parametrize("command", [("verify", "--seeds", 8), ("sample", "-o", "x.png")])
def test_a_task_the_artefact_lacks_is_a_sentence(several, cmexport, command, tmp_path):
    verb, *rest = command
    outcome = cmexport(verb, several, *rest, "--task", "stroke", cwd=tmp_path)
    assert outcome.code == 2
    assert "holds generate, inpaint, superres" in outcome.stderr


@pytest.mark.parametrize("tasks", ["generate,generate", "generate,", "generate,paint"])
def test_a_wrong_list_is_wrong_usage(tiny_checkpoint, cmexport, tmp_path, tasks):
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path / "o", "--task", tasks)
    assert outcome.code == 2
    assert "--task" in outcome.stderr
    assert not (tmp_path / "o").exists()


def test_one_failing_graph_rejects_the_artefact(tiny_checkpoint, cmexport, tmp_path, monkeypatch):
    gates = iter([100.0, 1000.0])
    monkeypatch.setattr("cmexport.verification.gate_of", lambda _precision, _plan: next(gates))
    tasks = ("--task", "generate,inpaint", "--steps", 1)
    outcome = cmexport("onnx", tiny_checkpoint, *SETTINGS, "-o", tmp_path, "--seeds", 8, *tasks)
    assert outcome.code == 4
    assert "(inpaint)" in outcome.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-onnx-fp32.rejected"]
