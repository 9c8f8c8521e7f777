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
from cmexport.artifact.border_record import SignatureRecord
from cmexport.artifact.manifest import FunctionRecord, GraphRecord
from cmexport.errors import CheckpointError
from cmexport.signature import Choice, Hole, Input, Normal, Photo, Range, Signature, Tokens, known


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
        (b'{"schema_version": 3}', "schema_version 3, this cmexport reads 1 and 2"),
        (b'{"schema_version": 1}', "damaged: inputs, outputs or tasks are amiss"),
        (b'{"schema_version": true}', "schema_version True"),
        (b'{"schema_version": {"a": "' + b"x" * 1000 + b'"}}', "schema_version"),
        (b'{"schema_version": 2}', r"cmexport_version: Field required \(and \d+ more faults\)"),
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


NAMES = st.text("abcdef", min_size=1, max_size=4)
SIDES = st.integers(1, 9)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def inputs(draw: st.DrawFn) -> Input:
    """An input with any law or none, in a shape that the law can draw."""
    law = draw(
        st.sampled_from([None, Normal(), Hole()])
        | st.builds(Choice, st.integers(1, 10**6), st.booleans())
        | st.builds(lambda ends: Range(*sorted(ends)), st.tuples(NUMBERS, NUMBERS))
        | st.integers(1, 50_000).flatmap(
            lambda n: st.builds(
                Tokens,
                st.just(n),
                *[st.integers(0, n - 1)] * 2,
                st.none() | st.integers(0, n - 1),
                st.lists(st.lists(st.integers(0, n - 1), max_size=3).map(tuple), max_size=3).map(tuple),
            )
        )
        | st.builds(Photo, NUMBERS)
    )
    axes = {Photo: 3, Hole: 3, Tokens: 1}.get(type(law), draw(st.integers(0, 4)))
    shape = [draw(st.integers(2, 9) if isinstance(law, Tokens) else SIDES) for _ in range(axes)]
    layout = [draw(st.sampled_from("CHWK")) for _ in shape]
    if draw(st.booleans()):
        at = draw(st.integers(0, axes))
        shape.insert(at, draw(SIDES))
        layout.insert(at, "N")
    dtype = draw(st.sampled_from(["float32", "int64", "int32", "float16"]))
    return Input(draw(NAMES), tuple(shape), dtype, law, tuple(layout), draw(st.text(max_size=9)))


@st.composite
def borders(draw: st.DrawFn) -> Signature:
    shape = (draw(SIDES), 3, 8, 8)
    output = known.finished(shape, as_bytes=draw(st.booleans()), clamp=draw(st.booleans()))
    return Signature(tuple(draw(st.lists(inputs(), max_size=4))), output)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), named=st.dictionaries(NAMES, borders(), min_size=1, max_size=3))
def test_whatever_is_written_opens_as_it_was(tmp_path: Path, manifest: Manifest, data: st.DataObject, named) -> None:
    """Any graphs with any laws, in runs of any of them."""
    orders = st.lists(st.sampled_from(list(named)), min_size=1, max_size=3).map(tuple)
    runs = data.draw(st.dictionaries(NAMES, orders, min_size=1, max_size=3))
    shared = {k: getattr(manifest, k) for k in FunctionRecord.model_fields if k not in ("name", "files")}
    functions = [FunctionRecord(name=name, files=("model.onnx",), **shared) for name in runs]
    graphs = [GraphRecord(name=n, files=("model.onnx",), signature=SignatureRecord.of(s)) for n, s in named.items()]
    facts = {"graphs": graphs, "runs": runs, "functions": functions if len(runs) > 1 else ()}
    written = Manifest(**(dict(manifest) | facts))
    write_manifest(tmp_path, written)
    found = read_manifest(tmp_path, check=False)
    assert found == written
    assert {g.name: g.signature.signature for g in found.graphs} == named
    for name, order in runs.items():
        alone = found.function(name)
        assert alone.runs == {name: order}
        assert alone.signature == Signature.chained([named[graph] for graph in order])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][1].update(law="chance(10)"), "unknown law 'chance'"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][1].update(parameters={}), "size"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][1].update(parameters={"size": 9}), "don't agree"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][1].update(parameters={"size": 0}), "anything to draw"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][0].update(batch_axis=1), "don't agree"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][0].update(shape=[1, 3]), "layout"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][0].update(dtype="bytes"), "dtype"),
        (lambda facts: facts["graphs"][0]["signature"]["inputs"][0].update(law="hole(", parameters={}), "don't agree"),
        (lambda facts: facts["graphs"][0].update(files=["/etc/passwd"]), "inside the artefact"),
        (lambda facts: facts["graphs"][0].update(files=["other.onnx"]), "other.onnx has no hash"),
        (lambda facts: facts["graphs"].append(facts["graphs"][0]), "runs name graphs"),
        (lambda facts: facts.update(runs={}), "runs name graphs"),
        (lambda facts: facts.update(runs={"generate": []}), "runs name graphs"),
        (lambda facts: facts.update(runs={"generate": ["paint"]}), "runs name graphs"),
        (lambda facts: facts.update(runs={"a": ["generate"], "b": ["generate"]}), "runs and functions"),
        (lambda facts: facts.pop("numerics"), "numerics: Field required"),
    ],
)
def test_damaged_graphs_and_runs_are_refused(folder: Path, damage, said: str) -> None:
    path = folder / "manifest.json"
    facts = json.loads(path.read_text())
    damage(facts)
    path.write_text(json.dumps(facts))
    refused(folder, said)


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
