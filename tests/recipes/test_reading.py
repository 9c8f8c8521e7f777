"""Recipes that extend others, and files that are none."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.errors import UsageError
from cmexport.recipes.checking import check_document
from cmexport.recipes.reading import read_document

BASE = """\
description = "base"
[checkpoint]
file = "a.pt"
[checkpoint.set]
levels = 40
[schedules]
two = { timesteps = [22, 0], levels = 40 }
[targets.onnx]
precisions = ["fp32"]
seeds = 8
"""


def test_entries_of_the_base_hold_where_the_recipe_says_nothing(write) -> None:
    base = write(BASE, "base.toml")
    path = write(
        'extends = "base.toml"\n\n[targets.onnx]\nprecisions = ["fp16"]\n[schedules]\ntwo = { sigmas = [80, 2] }\n'
    )
    document = read_document(path)
    assert document.data == {
        "description": "base",
        "checkpoint": {"file": "a.pt", "set": {"levels": 40}},
        "schedules": {"two": {"sigmas": [80, 2]}},  # whole: not half of each
        "targets": {"onnx": {"precisions": ["fp16"], "seeds": 8}},
    }
    assert document.files == (path, base)
    assert str(document.place(("targets", "onnx", "precisions", 0))) == f"{path}, line 4"
    assert str(document.place(("targets", "onnx", "seeds"))) == f"{base}, line 10"
    assert str(document.place(("schedules", "two", "sigmas"))) == f"{path}, line 6"
    assert ("schedules", "two", "levels") not in document.places


def test_another_checkpoint_inherits_no_constants(write) -> None:
    write(BASE, "base.toml")
    document = read_document(write('extends = "base.toml"\n[checkpoint]\nfile = "b.pt"\n'))
    assert document.data["checkpoint"] == {"file": "b.pt"}
    document = read_document(write('extends = "base.toml"\n[checkpoint.set]\nrho = 5\n'))
    assert document.data["checkpoint"] == {"file": "a.pt", "set": {"levels": 40, "rho": 5}}


def test_the_line_of_a_fault_is_that_of_the_file_it_stands_in(write) -> None:
    base = write(BASE.replace("fp32", "fp23"), "base.toml")
    with pytest.raises(UsageError) as caught:
        check_document(read_document(write('extends = "base.toml"\n')))
    assert str(caught.value).startswith(f"{base}, line 9: ")
    assert 'did you mean "fp32"?' in str(caught.value)


def test_recipes_that_extend_each_other_in_a_circle(write) -> None:
    write('# a\nextends = "b.toml"\n', "a.toml")
    write('extends = "c.toml"\n', "b.toml")
    c = write('\n\nextends = "./a.toml"\n', "c.toml")
    with pytest.raises(UsageError, match="circle") as caught:
        read_document(c.with_name("a.toml"))
    assert str(caught.value).startswith(f"{c}, line 3: ")
    own = write('extends = "own.toml"\n', "own.toml")
    with pytest.raises(UsageError, match=r"own\.toml, line 1: .*circle"):
        read_document(own)


def test_a_base_that_is_missing(write) -> None:
    write("", "demos.toml")
    with pytest.raises(UsageError, match=r"x\.toml, line 2: there is no recipe .*demo\.toml.*demos\.toml"):
        read_document(write('\nextends = "demo.toml"\n'))
    with pytest.raises(UsageError, match="line 1: extends must name"):
        read_document(write("extends = 3\n"))


def test_a_recipe_that_is_missing(write, tmp_path) -> None:
    write("", "demo.toml")
    with pytest.raises(UsageError, match=r'dem\.toml: no such recipe; did you mean ".*demo\.toml"'):
        read_document(tmp_path / "dem.toml")
    with pytest.raises(UsageError, match="a folder"):
        read_document(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a = 1\nb = \xff\n", r"x\.toml, line 2: not UTF-8"),
        (b"a = 1\nb = = 2\n", r"x\.toml, line 2: not valid TOML"),
        (b"a = 1\n\na = 2\n", r"x\.toml, line 3: not valid TOML"),
        (b"a = [1,\n2", r"x\.toml, line 2: not valid TOML"),
        (b"a = " + b"[" * 50_000, "too deep|not valid TOML"),
        (b"a = " + b"[" * 30 + b"]" * 30, "nested more than"),
        (b"a = " + b"{b = " * 20 + b"1" + b"}" * 20, "nested more than"),
        (b"a." * 100 + b"b = 1", "nested more than"),
        (b"# " + b"x" * 1_000_001, "larger than 1 MB"),
        (b"jobs = " + b"9" * 10_000, "number"),
        (b"\x00", "not valid TOML"),
        (b"[targets.onnx]\n" * 2, r"line 2: not valid TOML"),
    ],
)
def test_hostile_files(tmp_path, content, match) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=match):
        read_document(path)


def test_windows_files(tmp_path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf[targets.onnx]\r\nprecisions = ['fp31']\r\n")
    with pytest.raises(UsageError, match=r"line 2: .*fp32"):
        check_document(read_document(path))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from([b"", b"[targets.onnx]\n", b"[devices.local]\nruns = ", b"gate = "]))
def test_no_file_is_anything_but_a_recipe_or_refused(tmp_path, noise, start) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(start + noise)
    message = "one line"
    try:
        check_document(read_document(path))
        tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UsageError as error:
        message = str(error)
    assert 1 <= len(message.splitlines()) <= 3
