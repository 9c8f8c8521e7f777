"""Lines come from other machines and may be anything."""

from __future__ import annotations

import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench import lines
from cmexport.bench.lines import LineError, OutputLine, SamplesLine, parse_line

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KINDS = ("meta", "load", "first", "output", "samples", "minute", "idle", "raw", "memory", "thermal", "error", "done")


def parse(**fields):
    return parse_line(json.dumps(fields).encode())


def test_samples():
    line = parse(kind="samples", repeat=0, round=1, ms=[1, 2.5], canary_ms=[0.4], start_s=3, end_s=4.0, more="ignored")
    assert isinstance(line, SamplesLine)
    assert line.ms == [1.0, 2.5]


def test_unknown_kinds_and_blank_lines_are_passed_over():
    assert parse(kind="surprise", x=1) is None
    assert parse_line(b"  \r\n") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "load", "ms": "3", "cold": True},
        {"kind": "load", "ms": -3, "cold": True},
        {"kind": "load", "cold": True},
        {"kind": "samples", "repeat": 0, "round": 0, "ms": [], "start_s": 0, "end_s": 1},
        {"kind": "samples", "repeat": -1, "round": 0, "ms": [1], "start_s": 0, "end_s": 1},
        {"kind": "meta", "contract": 2, "runner": "x", "runtime": "y"},
        {"kind": "output", "run": 0, "name": "image", "dtype": "object", "shape": [1], "data": ""},
        {"kind": "output", "run": 0, "name": "image", "dtype": "float32", "shape": [-1], "data": ""},
        {"kind": "error", "stage": "run"},
    ],
)
def test_wrong_lines_are_refused_by_name(fields):
    with pytest.raises(LineError, match=f"the runner's line '{fields['kind']}' is wrong"):
        parse(**fields)


@pytest.mark.parametrize(
    "text", [b"Traceback (most recent", b"[1]", b"3", b'{"kind": 3}', b"{", b"\xff", b"[" * 100_000]
)
def test_other_output(text):
    with pytest.raises(LineError):
        parse_line(text)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite(value):
    with pytest.raises(LineError):
        parse_line(b'{"kind": "first", "ms": %s}' % value.encode())


def test_long_lines(monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(LineError, match="are allowed"):
        parse_line(b" " * 101)


def output(data, dtype="float32", shape=(2, 3)):
    return OutputLine(kind="output", run=0, name="image", dtype=dtype, shape=list(shape), data=data)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int64"])
def test_arrays(dtype):
    wanted = np.arange(6).reshape(2, 3).astype(dtype)
    found = output(base64.b64encode(wanted.astype(wanted.dtype.newbyteorder("<")).tobytes()).decode(), dtype).array
    assert (found == wanted).all()
    assert found.dtype == (np.float32 if dtype == "float16" else wanted.dtype)


@pytest.mark.parametrize("data", ["", "AAAA", "!!!!", "A" * 33, "é"])
def test_arrays_that_do_not_fit(data):
    with pytest.raises(LineError):
        _ = output(data).array


def test_a_shape_is_not_trusted_to_allocate():
    with pytest.raises(LineError, match="do not make"):
        _ = output("AAAA", shape=(1_000_000,) * 8).array


@given(st.sampled_from(KINDS), st.dictionaries(st.text(max_size=10), json_values, max_size=6))
def test_any_fields(kind, fields):
    with contextlib.suppress(LineError):
        parse_line(json.dumps({**fields, "kind": kind}).encode())


@given(st.binary(max_size=200))
def test_any_bytes(text):
    with contextlib.suppress(LineError):
        parse_line(text)
