"""Files of records: appended, whole, and refused by line when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.records import append_record, read_records, samples_folder, samples_of
from cmexport.errors import CheckpointError, OutputError

RECORDS = Path(__file__).parent / "fixtures" / "h100.jsonl"


@pytest.fixture
def record():
    return read_records(RECORDS)[0]


def test_records_are_added_never_replaced(record, tmp_path):
    path = tmp_path / "new" / "r.jsonl"
    append_record(path, record)
    first = path.read_bytes()
    append_record(path, record)
    assert path.read_bytes() == first * 2
    assert read_records(path) == (record, record)


def test_a_torn_last_line_does_not_swallow_the_next_record(record, tmp_path):
    path = tmp_path / "r.jsonl"
    append_record(path, record)
    path.write_bytes(path.read_bytes() + b'{"schema_version":1,"dev')
    append_record(path, record)
    with pytest.raises(CheckpointError, match=r"r\.jsonl, line 2: not JSON; delete the line"):
        read_records(path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if line.endswith("}")))
    assert read_records(path) == (record, record)


def test_other_versions_and_other_files(record, tmp_path):
    path = tmp_path / "r.jsonl"
    facts = json.loads(record.model_dump_json())
    for changed, message in (
        ({**facts, "schema_version": 2}, "schema_version 2, this cmexport reads 1"),
        ({**facts, "schema_version": True}, "schema_version True"),
        ({"a": 1}, "no schema_version"),
        ({**facts, "timing_ms": {}}, r"damaged: timing_ms\.n"),
        ([1], "no schema_version"),
    ):
        path.write_text(json.dumps(changed) + "\n")
        with pytest.raises(CheckpointError, match=message):
            read_records(path)
    with pytest.raises(CheckpointError, match="is a folder"):
        read_records(tmp_path)


def test_samples_stay_in_their_folder(record, tmp_path):
    assert samples_folder(RECORDS).is_dir()
    assert len(samples_of(RECORDS, record).ms) == record.timing_ms.n
    for name in ("../h100.jsonl.samples/x.json", "/etc/passwd", "h100.jsonl.samples/../x", "h100.jsonl.samples/"):
        timing = record.timing_ms.model_copy(update={"samples": name})
        with pytest.raises(CheckpointError, match="outside"):
            samples_of(RECORDS, record.model_copy(update={"timing_ms": timing}))


def test_a_place_that_cannot_be_written(record, tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        append_record(tmp_path, record)


@given(content=st.binary(max_size=300))
def test_any_file(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    if not content.strip():
        assert read_records(path) == ()
        return
    with pytest.raises(CheckpointError, match=r"any\.jsonl, line"):
        read_records(path)
