from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.artifact import Manifest, describe_file, read_manifest, write_manifest
from cmexport.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path, manifest: Manifest) -> Path:
    """A small artefact with two files, one of them in a subfolder."""
    model, weights = tmp_path / "model.onnx", tmp_path / "data" / "weights.bin"
    weights.parent.mkdir()
    model.write_bytes(b"graph")
    weights.write_bytes(b"\x01" * 1000)
    files = (describe_file(tmp_path, model, "model"), describe_file(tmp_path, weights, "weights"))
    write_manifest(tmp_path, manifest.model_copy(update={"files": files}))
    return tmp_path


def test_describe_file(folder: Path) -> None:
    record = describe_file(folder, folder / "data" / "weights.bin", "weights")
    assert (record.path, record.bytes, record.role) == ("data/weights.bin", 1000, "weights")
    assert record.sha256 == hashlib.sha256(b"\x01" * 1000).hexdigest()


def test_written_manifest_reads_back(folder: Path, manifest: Manifest) -> None:
    found = read_manifest(folder)
    assert found.model_copy(update={"files": ()}) == manifest
    assert sorted(p.name for p in folder.iterdir()) == ["data", "manifest.json", "model.onnx"]


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        read_manifest(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_missing_folder_file_as_folder_and_folder_without_manifest(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "no such artefact folder")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "no such artefact folder")
    refused(tmp_path, "it has no manifest.json")


def test_manifest_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 10_000, "not JSON"),
        (b"[]", "no schema_version"),
        (b"{}", "no schema_version"),
        (b'{"schema_version": 2}', "schema_version 2, this cmexport reads 1"),
        (b'{"schema_version": true}', "schema_version True"),
        (b'{"schema_version": {"a": "' + b"x" * 1000 + b'"}}', "schema_version"),
        (b'{"schema_version": 1}', r"cmexport_version: Field required \(and \d+ more faults\)"),
    ],
)
def test_damaged_manifests(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    refused(tmp_path, match)


def test_a_missing_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    refused(folder, "model.onnx: missing")


def test_a_truncated_file(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"gra")
    refused(folder, "3 bytes, but 5 were exported")


def test_a_changed_file_of_the_same_size(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"grapH")
    refused(folder, "SHA-256 differs")
    assert read_manifest(folder, check=False).name == "cars"


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()
    refused(folder, "missing")


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to every node of a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, child in children for p in places(child, (*path, key)))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=JSON, how=st.sampled_from(["replace", "delete", "rename"]))
def test_mutated_manifests_are_read_or_refused_but_never_crash(folder: Path, data, value, how) -> None:
    path = folder / "manifest.json"
    original = path.read_bytes()
    document = json.loads(original)
    where = data.draw(st.sampled_from(places(document)[1:]))
    parent = document
    for key in where[:-1]:
        parent = parent[key]
    if how == "replace":
        parent[where[-1]] = value
    else:
        old = parent.pop(where[-1])
        if how == "rename" and isinstance(parent, dict):
            parent[data.draw(st.text(max_size=5))] = old
    try:
        path.write_text(json.dumps(document))
        found = None
        # Any other exception ends the test: the command line would show it as a traceback.
        with contextlib.suppress(CheckpointError):
            found = read_manifest(folder)
        assert found is None or Manifest.model_validate_json(found.model_dump_json()) == found
    finally:
        path.write_bytes(original)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 6000), junk=st.binary(max_size=8))
def test_corrupted_bytes_are_refused(folder: Path, cut: int, junk: bytes) -> None:
    path = folder / "manifest.json"
    original = path.read_bytes()
    try:
        path.write_bytes(original[:cut] + junk)
        if path.read_bytes().rstrip() != original.rstrip():
            with pytest.raises(CheckpointError):
                read_manifest(folder)
    finally:
        path.write_bytes(original)
