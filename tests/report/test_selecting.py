"""The newest run is shown, the others are listed; two devices never share a name."""

from __future__ import annotations

from pathlib import Path

from cmexport.report.comparing import side_by_side
from cmexport.report.gathering import gather
from cmexport.report.material import prepare


def shown(build):
    return prepare(gather([build.records])).shown


def test_the_newest_run_is_shown_and_the_others_listed(build):
    for hour, ms in ((1, 20.0), (3, 40.0), (2, 30.0)):
        build.record(hour=hour, ms=(ms,), minutes=(ms,) if hour == 2 else ())
    (only,) = shown(build)
    assert only.run.timing.p50 == 40.0
    assert [run.timing.p50 for run in only.older] == [30.0, 20.0]
    assert only.sustained.sustained.first_p50_ms == 30.0


def test_devices_units_and_batches_are_apart(build):
    build.record()
    build.record(processor="Other CPU")
    build.record(batch=8)
    build.record(backend={"requested": "cuda"})
    build.record(precision="fp16", sha="a" * 64)
    found = shown(build)
    assert len(found) == 5
    assert len({s.label for s in found}) >= 4
    assert "Other CPU" in {s.device for s in found}


def test_two_machines_of_one_model_are_told_apart_by_their_address(build):
    for host in ("a", "b"):
        build.record(device={"kind": "ssh", "name": f"ssh://pi@{host}"})
    assert {s.device for s in shown(build)} == {"Toy CPU (ssh://pi@a)", "Toy CPU (ssh://pi@b)"}


def test_comparisons_take_the_newest_command_that_measured_all(build):
    build.record("one", hour=1, run="both", ms=(10.0,))
    build.record("two", hour=1, run="both", ms=(20.0,))
    build.record("one", hour=2, run="alone", ms=(99.0,))
    one, two = sorted(shown(build), key=lambda s: s.run.record.artifact.name)
    assert one.run.timing.p50 == 99.0
    beside = side_by_side((one, two))
    assert [run.timing.p50 for run in beside.runs] == [10.0, 20.0]
    assert beside.together
    assert beside.remark == ""


def test_comparisons_of_different_commands_say_so(build):
    build.record("one", run="a")
    build.record("two", run="b")
    beside = side_by_side(shown(build))
    assert not beside.together
    assert "in turns" in beside.remark


def test_a_record_is_matched_with_its_artefact_by_the_model_file(build, tmp_path: Path):
    folder = build.artifact("toy-onnx-fp32", sigmas=(80.0, 1.4), sampler="heun", evaluations=3)
    sha = gather([folder]).artifacts[0].facts.sha256
    build.record("renamed", sha=sha, steps=2)
    build.record("other")
    by_name = {s.run.record.artifact.name: s.run for s in prepare(gather([tmp_path])).shown}
    assert by_name["renamed"].artifact.folder == folder
    assert by_name["renamed"].evaluations == 3
    assert by_name["other"].artifact is None
