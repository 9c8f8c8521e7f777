"""What may take an artefact's place without being asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmexport.artifact.replacing import Replacement, Subject, manifest_facts
from cmexport.errors import UsageError

GRAPH = {
    "steps": 1,
    "sigmas": (80.0,),
    "label": "an input",
    "patch": None,
    "batch": 1,
    "output": "float",
    "sampler": "consistency",
    "eta": None,
    "gamma": None,
    "ep": "cpu",
}


def subject(sha: str = "a" * 64, task: str = "generate", settings: dict | None = None, **changed) -> Subject:
    return Subject(sha, {task: {**GRAPH, **changed}}, settings or {"sigma_data": 0.5, "attention": (16, 8)}, "2.0")


def written(folder: Path, **changed) -> Path:
    """A manifest written out by hand, not by the code under test."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "schema_version": 2,
        "cmexport_version": "2.0",
        "created": "2026-01-02T03:04:05Z",
        "target": "onnx",
        "task": "generate",
        "patch": None,
        "label": None,
        "files": [{"path": "model.onnx"}, {"path": "model.mlpackage/Data/w.bin"}],
        "checkpoint": {
            "sha256": "a" * 64,
            "file": "cm.pt",
            "settings": [{"name": "sigma_data", "value": 0.5}, {"name": "attention", "value": [16, 8]}],
        },
        "sampling": {"evaluations": [{}], "sigmas": [80.0], "sampler": "consistency"},
        "graphs": [{"name": "g", "signature": {"output": {"dtype": "float32", "shape": [1, 3, 8, 8]}}}],
        "runs": {"generate": ["g"]},
        "session": {"ep": "cpu"},
        **changed,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.onnx").touch()
    return folder


def test_an_older_export_of_the_same_goes_and_is_named(tmp_path: Path) -> None:
    decision = Replacement(subject())
    decision.check(tmp_path / "nothing there")
    assert decision.replaced == ""
    decision.check(written(tmp_path / "cm"))
    assert decision.replaced == "the artefact of cm.pt that was written 2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (subject("b" * 64), r"another checkpoint \(cm\.pt, SHA-256 aaaaaaaaaaaa\)"),
        (subject(sigmas=(80.0, 1.38), steps=2), "steps 1, not 2, sigmas 80, not 80,1.38"),
        (subject(label=3), "label an input, not 3"),
        (subject(batch=4), "batch 1, not 4"),
        (subject(output="uint8"), "output float, not uint8"),
        (subject(task="inpaint"), "task generate, not inpaint"),
        (subject(ep="web"), "ep cpu, not web"),
        (subject(settings={"sigma_data": 0.7, "attention": (16, 8)}), r"sigma_data 0\.5, not 0\.7"),
        (subject(settings={"sigma_data": 0.5, "attention": (16, 8), "entry": "ema"}), "entry none, not ema"),
    ],
)
def test_anything_else_stays_unless_overwrite_is_given(tmp_path: Path, new: Subject, words: str) -> None:
    folder = written(tmp_path / "cm")
    with pytest.raises(UsageError, match=words) as caught:
        Replacement(new).check(folder)
    assert "--overwrite" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    decision = Replacement(new, overwrite=True)
    decision.check(folder)
    assert "cm.pt" in decision.replaced


def test_a_constant_that_another_version_did_not_know_is_no_difference(tmp_path: Path) -> None:
    folder = written(tmp_path / "cm", cmexport_version="0.0.1")
    Replacement(subject(settings={"sigma_data": 0.5, "attention": (16, 8), "entry": "ema"})).check(folder)


def test_files_that_the_manifest_does_not_know_are_the_users(tmp_path: Path) -> None:
    folder = written(tmp_path / "cm")
    (folder / ".DS_Store").touch()
    (folder / "model.mlpackage").mkdir()
    Replacement(subject()).check(folder)
    (folder / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"notes\.txt"):
        Replacement(subject()).check(folder)


@pytest.mark.parametrize("content", ["{}", "[]", '{"name": "My web app", "icons": []}', "not JSON", None])
def test_what_is_no_artefact_stays(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "cm"
    folder.mkdir()
    (folder / "thesis.tex").touch()
    if content is not None:
        (folder / "manifest.json").write_text(content)
    assert manifest_facts(folder) is None
    with pytest.raises(UsageError, match="something else than an artefact"):
        Replacement(subject()).check(folder)
    Replacement(subject(), overwrite=True).check(folder)


def test_a_damaged_manifest_is_refused_not_crashed_on(tmp_path: Path) -> None:
    for broken in ({"sampling": None}, {"graphs": []}, {"checkpoint": {"sha256": "a" * 64}}, {"functions": [3]}):
        with pytest.raises(UsageError, match=r"can't read"):
            Replacement(subject()).check(written(tmp_path / "cm", **broken))
    with pytest.raises(UsageError, match="another checkpoint"):
        Replacement(subject()).check(written(tmp_path / "cm", checkpoint="?"))
