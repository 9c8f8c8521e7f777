"""What is found under a path, what is skipped with a note, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from cmexport.errors import CheckpointError, UsageError
from cmexport.report.gathering import gather


def test_a_folder_is_looked_through_to_the_third_level(build, tmp_path):
    build.record()
    build.artifact("toy-onnx-fp32")
    build.artifact("a/b/deep-onnx-fp32")
    build.artifact("a/b/c/too-deep-onnx-fp32")
    build.artifact(".toy.partial-1")
    found = gather([tmp_path])
    assert len(found.records) == 1
    assert [a.facts.name for a in found.artifacts] == ["deep-onnx-fp32", "toy-onnx-fp32"]
    assert found.notes == ()


def test_links_to_folders_are_not_followed(build, tmp_path):
    build.record()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "loop").symlink_to(tmp_path)
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    try:
        (inside / "out").symlink_to(elsewhere)
        type(build)(elsewhere).artifact()
        assert gather([tmp_path]).artifacts == ()
        assert len(gather([tmp_path, inside / "out"]).artifacts) == 1
    finally:
        shutil.rmtree(elsewhere)


def test_a_record_in_two_files_counts_once_and_brings_its_samples(build, tmp_path):
    build.record()
    copy = tmp_path / "a.jsonl"
    shutil.copy(build.records, copy)
    (found,) = gather([copy, build.records, tmp_path]).records
    assert found.file == build.records


def test_nothing_is_usage_and_a_missing_path_is_named(tmp_path):
    with pytest.raises(UsageError, match="no records and no artefacts"):
        gather([tmp_path])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UsageError):
        gather([tmp_path / "empty.jsonl"])
    with pytest.raises(CheckpointError, match=r"gone\.jsonl: no such"):
        gather([tmp_path / "gone.jsonl"])


@pytest.mark.parametrize("content", ["{", '{"schema_version": 9}', "[]", '{"schema_version": 1}', "\x00\xff", "1e999"])
def test_damage_is_refused_where_it_is_named_and_noted_where_it_lies(build, tmp_path, content):
    build.artifact("toy-onnx-fp32")
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text(content)
    with pytest.raises(CheckpointError, match=r"damaged\.jsonl, line 1"):
        gather([damaged])
    (note,) = gather([tmp_path]).notes
    assert "damaged.jsonl, line 1" in note


def test_a_damaged_manifest_likewise(build, tmp_path):
    build.record()
    folder = build.artifact("toy-onnx-fp32")
    (folder / "manifest.json").write_text('{"schema_version": 1}')
    with pytest.raises(CheckpointError, match="damaged"):
        gather([folder])
    assert "damaged" in gather([tmp_path]).notes[0]


def test_a_manifest_without_a_model_file(build):
    folder = build.artifact(change=lambda facts: facts.update(files=[]))
    with pytest.raises(CheckpointError, match=r"damaged: graphs\.0\.files"):
        gather([folder])


def test_rejected_artefacts_are_there_and_marked(build, tmp_path):
    build.artifact("toy-onnx-fp16.rejected", precision="fp16", mean_db=20.0, gate_db=60.0)
    build.artifact("toy-onnx-fp32")
    assert {a.facts.name: a.rejected for a in gather([tmp_path]).artifacts} == {
        "toy-onnx-fp16.rejected": True,
        "toy-onnx-fp32": False,
    }


def test_scores_are_taken_and_other_json_is_left_alone(build, tmp_path):
    build.record()
    row = {"steps": 2, "sigmas": [80.0, 1.4], "schedule": "tuned", "distance": 12.5, "latency_ms": 3.0, "bytes": 7}
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [row]}))
    estimate = {"value": 1.0, "low": 0.5, "high": 1.5, "standard_error": 0.2}
    distances = {"artifact_reference": estimate, "artifact_real": None, "reference_real": None, "halves": 3.0}
    judged = {"folder": "out/toy-onnx-int8", "distribution": {"judge": "j", "pictures": 64, "distances": distances}}
    (tmp_path / "verify.json").write_text(json.dumps(judged))
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    found = gather([tmp_path])
    assert found.notes == ()
    steps, verified = sorted(found.scores, key=lambda s: s.file.name)
    assert steps.rows[0].distance == 12.5
    assert verified.of_graph("toy-onnx-int8", "generate").distances.artifact_reference.high == 1.5
    assert verified.of_graph("other", "generate") is None
    for name, why in (("package.json", "neither"), ("broken.json", "not JSON")):
        with pytest.raises(CheckpointError, match=why):
            gather([tmp_path / name])
    row["latency_ms"] = float("inf")
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [row]}))
    assert "damaged scores" in gather([tmp_path]).notes[0]
