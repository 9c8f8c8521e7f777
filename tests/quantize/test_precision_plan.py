"""Plans survive being written and read, and nothing that stands in a file makes the reader do anything but refuse."""

from __future__ import annotations

import string
import tomllib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError
from cmexport.quantize.codes import RoundingOptions
from cmexport.quantize.layers import OPERATORS, Layer
from cmexport.quantize.precision_plan import FLOAT, INT8, PrecisionPlan, check_keys, plan_text, read_plan

ROLES = {"spatial": INT8, "linear": INT8, "attention": INT8, "pointwise": FLOAT, "picture": FLOAT}
KEYS = st.text(string.ascii_letters + string.digits + "_.#", min_size=1, max_size=40)


def layer(key, role="spatial"):
    return Layer(key, role, (key,), next(iter(OPERATORS.values())), torch.zeros(8, 4, 3, 3))


@pytest.fixture
def written(tmp_path):
    """A function: the path of a plan file with this text or these bytes."""

    def write(content):
        path = tmp_path / "plan.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(KEYS, st.tuples(st.sampled_from(sorted(ROLES)), st.sampled_from([INT8, FLOAT, None]))),
    st.builds(RoundingOptions, st.floats(1, 4), st.floats(0, 1), st.booleans()),
    st.booleans(),
    st.text(string.printable.replace("\n", "").replace("\r", "").translate({11: None, 12: None}), max_size=20),
)
def test_what_is_written_is_read_back_with_every_layer_spelled_out(tmp_path_factory, named, rounding, correction, note):
    layers = [layer(key, role) for key, (role, _) in named.items()]
    asked = {key: precision for key, (_, precision) in named.items() if precision is not None}
    notes = {key: note.replace("\t", " ") for key in asked}
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    path.write_text(plan_text(PrecisionPlan(asked, rounding, correction, notes), layers), encoding="utf-8")
    found = read_plan(path)
    assert found.layers == {key: precision or ROLES[role] for key, (role, precision) in named.items()}
    assert found.rounding == rounding
    assert found.bias_correction is correction
    check_keys(found, layers)


def test_a_short_plan_means_the_defaults(written):
    found = read_plan(written("version = 1\n"))
    assert found == PrecisionPlan({})
    assert found.bias_correction
    for role, precision in ROLES.items():
        assert found.precision_of(layer("a", role)) == precision
    found = read_plan(written('version = 1\n[rounding]\nmargin = 2\n[layers]\n"a.b" = "float"\n'))
    assert found.precision_of(layer("a.b")) == FLOAT
    assert found.precision_of(layer("a.c")) == INT8
    assert (found.rounding.margin, found.rounding.balance) == (2.0, 1.0)


def test_the_comments_carry_role_size_and_note():
    text = plan_text(PrecisionPlan(notes={"a": "alone 61.0 dB"}), [layer("a"), layer("b", "picture")])
    assert '"a" = "int8"  # spatial, 288 weights; alone 61.0 dB' in text.splitlines()
    assert '"b" = "float"  # picture, 288 weights' in text.splitlines()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "version"),
        ("version = 2", "version must be 1, not 2"),
        ('version = "1"', "version must be 1"),
        ("version = 1\nlayer = 3", "unknown table or key layer"),
        ("version = 1\nlayers = 3", "must be tables"),
        ("version = 1\nrounding = []", "must be tables"),
        ('version = 1\n[layers]\na = "int4"', "layers.a is 'int4'; known are int8, float"),
        ("version = 1\n[layers]\na = 8", "known are int8, float"),
        ("version = 1\n[layers]\na = [1]", "known are int8, float"),
        # Without quotes a path is nested tables.
        ('version = 1\n[layers]\na.b = "int8"', "layers.a"),
        ('version = 1\n[layers]\n"a" = "int8"\n"a" = "float"', "not TOML"),
        ("version = 1\n[rounding]\nmargins = 1.1", "rounding has no margins; known are margin"),
        ('version = 1\n[rounding]\nmargin = "wide"', "expected a float"),
        ("version = 1\n[rounding]\nmargin = true", "expected a float"),
        ("version = 1\n[rounding]\nleast_squares = 1", "expected a bool"),
        ("version = 1\n[rounding]\nbias_correction = 0", "expected a bool"),
        ("version = 1\n[rounding]\nmargin = 0.5", "from 1 to 4"),
        ("version = 1\n[rounding]\nmargin = nan", "from 1 to 4"),
        ("version = 1\n[rounding]\nmargin = inf", "from 1 to 4"),
        ("version = 1\n[rounding]\nbalance = -0.1", "from 0 to 1"),
        ("version = 1\n[rounding]\nmargin = 2020-01-01", "expected a float"),
        ("version = 1\n[rounding", "not TOML"),
        ("version = 1\n\x00", "not TOML"),
        (b"version = 1\n# \xff\xfe", "can't read this plan"),
        (b"PK\x03\x04\x00\x00", "not TOML"),
    ],
)
def test_a_plan_that_is_none_is_refused_in_a_sentence(written, text, words):
    path = written(text)
    with pytest.raises(CheckpointError) as refused:
        read_plan(path)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value).splitlines()) <= 3


@pytest.mark.parametrize(
    "text",
    [
        # Numbers beyond a float, beyond what Python converts, and nesting beyond its stack: tomllib lets these through
        # as other errors than its own.
        "version = 1\n[rounding]\nmargin = " + "1" * 400,
        "version = 1\n[rounding]\nbalance = -" + "9" * 400,
        "version = " + "1" * 5000,
        "version = 1\nx = " + "[" * 50_000,
        "version = 1\nx = " + "{a = " * 5_000,
        "version = true",
        "version = 1.0",
    ],
    ids=["huge margin", "huge balance", "endless version", "deep lists", "deep tables", "true", "1.0"],
)
def test_numbers_and_nesting_beyond_all_measure_are_refused(written, text):
    path = written(text)
    with pytest.raises(CheckpointError) as refused:
        read_plan(path)
    assert len(str(refused.value)) < 500 + len(str(path))


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb = 1", "a\x7f\x01", "schicht.ä.\U0001f600", 'x" = "float"  # '])
def test_names_that_toml_would_misread_come_back_as_they_are(written, key):
    found = read_plan(
        written(plan_text(PrecisionPlan({key: FLOAT}, notes={key: "two\nlines"}), [layer(key), layer("b")]))
    )
    assert found.layers == {key: FLOAT, "b": INT8}


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path, words in ((tmp_path / "none.toml", "can't read this plan"), (tmp_path, "is a folder, not a plan")):
        with pytest.raises(CheckpointError, match=words):
            read_plan(path)


# Names that would run if anything did, dates, and nesting.
TRICKY = st.sampled_from(
    (
        *("version = 1\n", "[layers]\n", "[rounding]\n", "margin = ", "'a' = ", '"int8"', "float\n", "1e400\n"),
        *("[[layers]]\n", "{a = 1}\n", "__import__('os')", "!!python/object", "1979-05-27T07:32:00Z\n", "[[", '"""'),
        *("-0x1\n", "\\u0000"),
    )
)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=80), st.lists(TRICKY, max_size=8).map(lambda parts: "".join(parts).encode())))
def test_any_bytes_are_a_plan_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    try:
        found = read_plan(path)
    except CheckpointError:
        return
    assert tomllib.loads(content.decode())["version"] == 1
    assert set(found.layers.values()) <= {INT8, FLOAT}


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_plan_is_refused_or_still_a_plan(tmp_path_factory, data):
    whole = plan_text(PrecisionPlan(), [layer("input_blocks.1.0.in_layers.2"), layer("out.2", "picture")]).encode()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if damaged:
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(bytes(damaged))
    try:
        found = read_plan(path)
    except CheckpointError:
        return
    assert set(found.layers.values()) <= {INT8, FLOAT}
    assert 1 <= found.rounding.margin <= 4


def test_unknown_layers_are_refused_with_the_nearest_name():
    layers = [layer("input_blocks.1.0.in_layers.2"), layer("output_blocks.1.0.in_layers.2"), layer("out.2")]
    with pytest.raises(CheckpointError) as refused:
        check_keys(PrecisionPlan({"input_blocks.1.0.in_layer.2": INT8}), layers, "my.toml")
    message = str(refused.value)
    assert message == (
        "my.toml: this model has no layer input_blocks.1.0.in_layer.2; did you mean input_blocks.1.0.in_layers.2?"
    )
    with pytest.raises(CheckpointError, match=r"has no layer zzz; it has 3, the first is input_blocks\.1\.0"):
        check_keys(PrecisionPlan({"zzz": INT8}), layers)
    with pytest.raises(CheckpointError, match="has no layer zzz"):
        check_keys(PrecisionPlan({"zzz": INT8}), [])
    check_keys(PrecisionPlan({"out.2": FLOAT}), layers)
