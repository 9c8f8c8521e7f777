"""Figures computed again from raw samples, against numpy; and what disagrees with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cmexport.bench.records import read_records
from cmexport.report.gathering import FoundRecord, gather
from cmexport.report.runs import recompute

REAL = [Path(__file__).parents[1] / "bench" / "fixtures" / f"{name}.jsonl" for name in ("h100", "h200")]


def only(build):
    (found,) = gather([build.records]).records
    return recompute(found, ())


def tamper(build, *path, value):
    line = json.loads(build.records.read_text())
    place = line
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    build.records.write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize("real", [FoundRecord(file, record) for file in REAL for record in read_records(file)])
def test_a_real_gpu_agrees_with_its_samples(real):
    run, record = recompute(real, ()), real.record
    assert run.origin == "samples"
    assert run.disagreements == ()
    assert run.timing.p90 == float(np.percentile(run.ms, 90))
    assert run.ms_per_picture == pytest.approx(np.median(run.ms) / record.artifact.batch)


def test_figures_are_those_of_the_samples(build):
    build.record(ms=(1.0, 2.0, 4.0, 8.0, 16.0), watts=5.0, images=50, minutes=(2.0, 3.0))
    run = only(build)
    assert (run.origin, run.disagreements) == ("samples", ())
    assert run.timing.p50 == 4.0
    # (5 - 1) W for 10 s over 50 pictures; the window is read at the counter's movements.
    assert run.energy.mj_per_image_net == pytest.approx(4.0 * 9.95 / 50 * 1e3, rel=0.02)
    assert run.sustained.slowdown == 1.5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("timing_ms", "p50"), 10.0),
        (("timing_ms", "n"), 400),
        (("timing_ms", "load_cold"), 99.0),
        (("energy", "mj_per_image_net"), 1.0),
        (("energy", "ci95_mj_per_image"), [1.0, 2.0]),
        (("energy", "grade"), "B"),
        (("sustained", "slowdown"), 1.0),
        (("sustained", "minutes", 1, "p50_ms"), 1.0),
        (("validity", "repeat_p50_ms"), [1.0]),
        (("validity", "repeat_p50_ms"), [1.0, 2.0]),
    ],
)
def test_a_figure_that_was_changed_is_named_and_the_computed_one_shown(build, path, value):
    record = build.record(watts=5.0, minutes=(2.0, 3.0))
    tamper(build, *path, value=value)
    run = only(build)
    assert any(said.startswith(".".join(map(str, path))) for said in run.disagreements)
    assert (run.timing, run.energy) == (record.timing_ms, record.energy)


def test_energy_that_no_reading_backs_is_a_disagreement(build):
    record = build.record(watts=5.0)
    other = build.record(hour=1)
    line = json.loads(other.model_dump_json())
    line["energy"] = json.loads(record.energy.model_dump_json())
    build.records.write_text(json.dumps(line) + "\n")
    assert any("no readings" in said for said in only(build).disagreements)


def test_without_samples_the_recorded_figures_stand_and_say_so(build):
    record = build.record(kept=False, ms=(10.0, 12.0))
    run = only(build)
    assert (run.origin, run.timing, run.ms, run.disagreements) == ("record", record.timing_ms, (), ())


def test_missing_changed_and_foreign_side_files(build, tmp_path):
    record = build.record()
    side = build.folder / record.timing_ms.samples
    content = side.read_bytes()
    side.write_bytes(content.replace(b"10.0", b"1.00"))
    assert only(build).origin == "changed"
    side.unlink()
    run = only(build)
    assert (run.origin, run.timing) == ("missing", record.timing_ms)
    assert str(side) in run.complaint
    for path in ("../secret.json", "/etc/passwd", "records.jsonl.samples/../../x.json", "other.samples/a.json"):
        tamper(build, "timing_ms", "samples", value=path)
        run = only(build)
        assert run.origin in ("missing", "changed")
        assert "outside" in run.complaint


def test_samples_that_no_device_gives(build):
    record = build.record(minutes=(1.0, 2.0))
    side = build.folder / record.timing_ms.samples
    content = side.read_bytes().replace(b'"minute":0,"ms":[1.0]', b'"minute":0,"ms":[0.0]')
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    side.with_name(name).write_bytes(content)
    tamper(build, "timing_ms", "samples", value=f"{side.parent.name}/{name}")
    run = only(build)
    assert (run.origin, run.timing.p50) == ("changed", record.timing_ms.p50)
    assert "give no figures" in run.complaint


def test_a_run_that_failed_has_no_figures(build):
    build.record(ms=(), kept=False, failure={"stage": "load", "message": "no such operator"})
    run = only(build)
    assert run.ms_per_picture is None
    assert run.timing.n == 0
