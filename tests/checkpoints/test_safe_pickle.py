"""The reader of pickles agrees with Python's on plain data, and only describes everything else."""

import collections
import datetime
import io
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.checkpoints.safe_pickle import Blob, Foreign, PickleRefusedError, ordered_dict, read_pickle

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)

# Protocols before 3 have no bytes and spell them as calls.
BYTES = {"_codecs.encode": lambda args: args[0].encode(args[1]), "__builtin__.bytes": lambda args: b""}


@settings(max_examples=300, deadline=None)
@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_data_comes_out_as_pythons_own(value, protocol):
    data = pickle.dumps(value, protocol)
    content = read_pickle(io.BytesIO(data), BYTES)
    assert content.value == value
    assert content.end == len(data)


@settings(max_examples=100, deadline=None)
@given(plain)
def test_old_text_protocol(value):
    assert read_pickle(io.BytesIO(pickle.dumps(value, 0)), BYTES).value == value


def test_shared_and_recursive_references():
    shared = [1]
    loop = [shared, shared]
    loop.append(loop)
    value = read_pickle(io.BytesIO(pickle.dumps(loop)), {}).value
    assert value[0] is value[1]
    assert value[2] is value


def test_objects_become_records():
    made = [datetime.date(2026, 1, 2), collections.OrderedDict(a=1), {1, 2}, frozenset({3})]
    content = read_pickle(io.BytesIO(pickle.dumps(made)), {"collections.OrderedDict": ordered_dict})
    date, mapping, items, frozen = content.value
    assert isinstance(date, Foreign)
    assert str(date.callable) == "datetime.date"
    assert mapping == {"a": 1}
    assert (sorted(items), frozen) == ([1, 2], [3])
    assert [str(name) for name in content.imports] == ["datetime.date", "collections.OrderedDict"]


def test_large_bytes_stay_in_the_file():
    data = pickle.dumps([b"x" * 100, b"y" * 100_000])
    small, large = read_pickle(io.BytesIO(data), {}).value
    assert small == b"x" * 100
    assert isinstance(large, Blob)
    assert large.read() == b"y" * 100_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\x80\x04", "truncated"),
        (b"\x80\x09.", "protocol 9"),
        (b".", "empty stack"),
        (b"\xff.", "no pickle operation"),
        (b"h\x05.", "never made"),
        (b"Nt.", "never opened"),
        (b"}K\x01.", None),
        (b"(K\x01d.", "without a value"),
        (b"NK\x01a.", "no list"),
        (b"\x82\x01.", "EXT1"),
        (b"P1\n.", "outside itself"),
        (b"\x80\x04K\x01K\x02\x93.", "without a name"),
        (b"\x8e" + b"\xff" * 8 + b"abc", "truncated"),
        (b"N0" * 600 + b"N.", "operations"),
    ],
)
def test_refusals(data, reason):
    if reason is None:
        assert read_pickle(io.BytesIO(data), {}).value == 1
        return
    with pytest.raises(PickleRefusedError, match=reason):
        read_pickle(io.BytesIO(data), {}, max_operations=1000)


def test_a_builder_that_fails_is_a_refusal():
    with pytest.raises(PickleRefusedError, match=r"datetime\.date has impossible arguments \(ZeroDivisionError\)"):
        read_pickle(io.BytesIO(pickle.dumps(datetime.date(2026, 1, 2))), {"datetime.date": lambda args: 1 / 0})
