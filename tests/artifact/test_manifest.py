from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from cmexport.artifact import Manifest, ParityRecord, metadata_props
from cmexport.artifact.manifest import FileRecord, SessionRecord, SettingRecord


def test_round_trip_through_json_is_exact(manifest: Manifest) -> None:
    again = Manifest.model_validate_json(manifest.model_dump_json(indent=2))
    assert again == manifest
    assert again.sampling.evaluations[1].c_in == 0.1 + 0.2
    assert again.model_dump_json() == manifest.model_dump_json()


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "8", [8, 16], None])
def test_a_setting_keeps_its_type(value: object) -> None:
    record = SettingRecord(name="x", value=value, origin="test", ambiguous=False)
    again = SettingRecord.model_validate_json(record.model_dump_json())
    assert again.value == value
    assert type(again.value) is type(value)


def test_tuples_are_kept_as_json_keeps_them() -> None:
    record = SettingRecord(name="attention", value=(16, 8), origin="test", ambiguous=False)
    assert record.value == [16, 8]
    assert SettingRecord.model_validate_json(record.model_dump_json()) == record


def test_json_is_plain_and_versioned(manifest: Manifest) -> None:
    found = json.loads(manifest.model_dump_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found["schema_version"] == 2
    assert found["created"] == "2026-01-02T03:04:05Z"
    assert found["checkpoint"]["architecture"]["channel_mult"] == [1, 2, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_json_cannot_say_are_refused(manifest: Manifest, bad: float) -> None:
    with pytest.raises(ValidationError):
        SettingRecord(name="x", value=bad, origin="test", ambiguous=False)
    with pytest.raises(ValidationError):
        SessionRecord(ep="CPU", options={"deep": [{"er": bad}]})
    with pytest.raises(ValidationError):
        Manifest.model_validate(manifest.model_dump() | {"sampling": manifest.sampling.model_dump() | {"rho": bad}})


def test_records_are_frozen_and_refuse_unknown_keys(manifest: Manifest) -> None:
    with pytest.raises(ValidationError):
        manifest.name = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Manifest.model_validate(manifest.model_dump() | {"surprise": 1})
    with pytest.raises(ValidationError):
        Manifest.model_validate(manifest.model_dump() | {"schema_version": 3})


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a\\..\\x", "a\0b"])
def test_files_lie_inside_the_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        FileRecord(path=path, sha256="0" * 64, bytes=1, role="model")


def test_a_mlpackage_is_listed_file_by_file() -> None:
    assert FileRecord(path="m.mlpackage/Data/weights.bin", sha256="a" * 64, bytes=1, role="weights").role == "weights"


def test_parity_record_mirrors_the_report(report_with) -> None:
    report = report_with(1e-5, 1e-1)
    record = ParityRecord.from_report(report)
    assert (record.passed, record.failed_rung) == (False, "rung 1")
    assert (record.pictures, record.pictures_asked, record.seed, record.gate_db) == (8, 8, 3, 60.0)
    assert record.rungs[0].difference.mean_db == report.rungs[0].difference.mean_db
    assert record.exact is not None
    assert record.exact.pictures == 4
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record


def test_identical_and_nan_are_both_null_and_told_apart(report_with) -> None:
    record = ParityRecord.from_report(report_with(0.0, float("nan")))
    same, broken = (rung.difference for rung in record.rungs)
    assert (same.mean_db, same.identical, same.non_finite) == (None, True, 0)
    assert (broken.mean_db, broken.identical, broken.non_finite) == (None, False, 8 * 48)
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record


def test_metadata_is_flat_strings_that_hold_the_constants(manifest: Manifest) -> None:
    facts = metadata_props(manifest)
    assert all(key.startswith("cmexport.") for key in facts)
    assert all(isinstance(value, str) for value in facts.values())
    assert [float(x) for x in facts["cmexport.sampling.sigmas"].split(",")] == [80.0, 1.3824]
    assert [float(x) for x in facts["cmexport.sampling.c_in"].split(",")] == [0.0125, 0.1 + 0.2]
    assert facts["cmexport.label"] == "input"
    assert facts["cmexport.classes"] == "10"
    assert facts["cmexport.inputs"].startswith("noise float32 1x3x32x32: standard normal")
    assert json.loads(facts["cmexport.rewrites"]) == {"fold_time": 1e-7}
    assert json.loads(facts["cmexport.numerics"]) == {"default": "float16", "kept_float32": ["norm", "combine"]}
    parity = json.loads(facts["cmexport.parity"])
    assert (parity["passed"], parity["rung"], parity["pictures"], parity["seed"]) == (True, "rung 1", 8, 3)
    assert manifest.parity is not None
    assert parity["mean_db"] == manifest.parity.rungs[1].difference.mean_db


def test_metadata_does_not_depend_on_when_or_where(manifest: Manifest, report_with) -> None:
    later = manifest.model_copy(
        update={
            "created": manifest.created.replace(year=2030),
            "parity": ParityRecord.from_report(report_with(1e-5, 1e-4)),  # the same figures after other seconds
            "checkpoint": manifest.checkpoint.model_copy(update={"path": "elsewhere"}),
        }
    )
    assert metadata_props(later) == metadata_props(manifest)


@pytest.mark.parametrize(("label", "classes", "expected"), [(3, 10, "3"), (None, None, "none")])
def test_metadata_of_a_baked_label_and_of_no_label(manifest: Manifest, label, classes, expected) -> None:
    changed = manifest.model_copy(update={"label": label, "classes": classes, "parity": None})
    facts = metadata_props(changed)
    assert facts["cmexport.label"] == expected
    assert "cmexport.parity" not in facts
