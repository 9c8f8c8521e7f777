"""Every key and element is found in the line that it was written in."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from cmexport.recipes.toml_lines import find_lines

DOCUMENT = '''\
title = "a # b"            # [not.a.table]
[schedules]
two = { timesteps = [22, 0], "quoted = key" = 'x}' }
[targets."my onnx"]  # comment
precisions = [
  "fp32",   # one
  # none here

  ["nested", { deep = 1 }],
]
note = """
[fake]
key = 1 \\""" still
"""
raw = \'\'\'
[fake.too]\'\'\'
a.b.c = 2024-01-01 07:32:00
[[device]]
name = "x"
[[device]]
name = "y"
[device.inner]
z = -1.5e3
'''


def test_lines_of_a_document_read_by_eye() -> None:
    tomllib.loads(DOCUMENT)
    lines = find_lines(DOCUMENT)
    expected = {
        ("title",): 1,
        ("schedules",): 2,
        ("schedules", "two"): 3,
        ("schedules", "two", "timesteps", 1): 3,
        ("schedules", "two", "quoted = key"): 3,
        ("targets",): 4,
        ("targets", "my onnx"): 4,
        ("targets", "my onnx", "precisions"): 5,
        ("targets", "my onnx", "precisions", 0): 6,
        ("targets", "my onnx", "precisions", 1, 1, "deep"): 9,
        ("targets", "my onnx", "note"): 11,
        ("targets", "my onnx", "raw"): 15,
        ("targets", "my onnx", "a", "b", "c"): 17,
        ("device", 0, "name"): 19,
        ("device", 1): 20,
        ("device", 1, "name"): 21,
        ("device", 1, "inner", "z"): 23,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert not [path for path in lines if "fake" in map(str, path) or "key" in path]


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8)
KEY = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True), TEXT)
LEAF = st.one_of(st.integers(-5, 5), st.booleans(), TEXT, st.floats(allow_nan=False, allow_infinity=False))
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3), max_leaves=6
)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if c in '"\\' else c for c in text) + '"'


def written(value, literal: bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'" if literal and "'" not in value else quoted(value)
    if isinstance(value, list):
        return "[" + ", ".join(written(item, literal) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {written(v, literal)}" for k, v in value.items()) + "}"
    return repr(value)


def paths(value, here):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield here
    for key, item in items:
        yield from paths(item, (*here, key))


@given(
    st.dictionaries(KEY, st.dictionaries(KEY, VALUE, max_size=4), max_size=4),
    st.lists(st.sampled_from(["", '# [x] = \'y\' """', "   "]), min_size=1, max_size=3),
    st.booleans(),
)
def test_every_path_is_found_where_it_was_written(tables, fillers, literal) -> None:
    lines, expected = list(fillers), {}
    for table, entries in tables.items():
        lines.append(f"[{quoted(table)}]")
        expected[(table,)] = len(lines)
        for key, value in entries.items():
            lines += fillers
            lines.append(f" {quoted(key)} = {written(value, literal)} # end")
            expected |= dict.fromkeys(paths(value, (table, key)), len(lines))
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    assert find_lines(text) == expected
