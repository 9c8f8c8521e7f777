"""Null and its reason belong together, in every section."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cmexport.bench.schema import BenchRecord, EnergyRecord, MemoryRecord, PowerRecord, TimingRecord


def test_a_null_needs_a_reason():
    with pytest.raises(ValidationError, match="peak is null without a reason"):
        MemoryRecord(before=1.0, after=2.0, method="x")


def test_a_reason_needs_a_null():
    with pytest.raises(ValidationError, match="reasons name peak, which is not a null figure"):
        MemoryRecord(before=1.0, peak=1.0, after=2.0, method="x", reasons={"peak": "unknown"})
    with pytest.raises(ValidationError, match="reasons name other"):
        MemoryRecord(before=1.0, peak=1.0, after=2.0, method="x", reasons={"other": "unknown"})


def test_an_empty_reason_is_none():
    with pytest.raises(ValidationError):
        MemoryRecord.known("", before=1.0)


def test_known_gives_each_null_its_reason():
    found = MemoryRecord.known({"peak": "no tool", "": "not asked"}, before=1.0, after=None)
    assert found.reasons == {"peak": "no tool", "after": "not asked", "method": "not asked"}
    assert PowerRecord.known("no battery").battery_percent is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_impossible_figures(value):
    with pytest.raises(ValidationError):
        TimingRecord.known("x", n=1, p50=value)


def test_a_grade_needs_a_figure_and_d_has_none():
    with pytest.raises(ValidationError, match="grade A without a figure"):
        EnergyRecord.known("x", grade="A", grade_rule="")
    with pytest.raises(ValidationError, match="grade D is for figures"):
        EnergyRecord.known("x", grade="D", grade_rule="", source="s", mj_per_image_net=1.0)


def test_unknown_fields_and_versions_are_refused():
    for extra in ({"schema_version": 2}, {"surprise": 1}):
        with pytest.raises(ValidationError):
            BenchRecord.model_validate(extra)
