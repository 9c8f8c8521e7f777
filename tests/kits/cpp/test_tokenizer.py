"""The C++ tokenizer gives the ids of cmexport's, which transformers' own are compared with; under sanitizers."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cpp_kits

from cmexport.tokenizer import Tokenizer, read_tokenizer
from cmexport.tokenizer.prompts import vector_prompts

SOURCES = ("src/tokenizer.cpp", "src/unicode.cpp", "src/utf8.cpp", "src/json.cpp", "src/files.cpp")
NASTY = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|ENDOFTEXT|>",
    "'s",
    "'RE",
    "'",
    "<|",
    "|>",
    "!",
    " ",
    "\x1c",
    "\x85",
    "İ",
    "Σ",
]
Encode = Callable[[bytes], tuple[int, ...]]


@pytest.fixture(scope="module")
def program(kit, worded, release, tmp_path_factory) -> Path:
    sources = [cpp_kits.PROGRAMS / "tokens.cpp", *(cpp_kits.TEMPLATES / source for source in SOURCES)]
    tables = f"-I{kit(worded) / 'src'}"
    return cpp_kits.compiled(tmp_path_factory.mktemp("tokens") / "tokens", sources, tables, "-g1", *cpp_kits.SANITIZERS)


@pytest.fixture(scope="module")
def pair(program, kit, worded) -> Iterator[tuple[Tokenizer, Encode]]:
    """The emoji model's tokenizer, in Python and in C++."""
    folder = kit(worded) / "model/tokenizer"
    ours = read_tokenizer(folder)
    facts = [str(getattr(ours, name)) for name in ("begin", "end", "pad", "unknown", "length")]
    with subprocess.Popen(
        [program, folder, *facts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:

        def encode(text: bytes) -> tuple[int, ...]:
            process.stdin.write(text.hex() + "\n")
            return tuple(map(int, process.stdout.readline().split()))

        yield ours, encode
        process.stdin.close()
        assert process.wait() == 0


def test_vectors(pair):
    ours, theirs = pair
    for text in vector_prompts():
        sound = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert theirs(sound.encode()) == ours.encode(text), ascii(text)


def facts(code: int) -> tuple[object, ...]:
    """What the tables say of a character; lengths of ranges are right if their ends are."""
    c = chr(code)
    return unicodedata.category(c)[0] in "LN" and unicodedata.category(c)[0], unicodedata.combining(c), c.lower() != c


def test_every_entry_of_the_tables(pair):
    """Alone, after a letter and before marks: categories, small letters, normal forms."""
    ours, theirs = pair
    codes = [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000]
    told = [c for c in codes if unicodedata.decomposition(chr(c)) or chr(c).lower() != chr(c)]
    ends = [c for before, c in pairwise(codes) if facts(before) != facts(c)]
    looked_at = sorted({*told, *ends, *(c - 1 for c in ends if not 0xD800 < c <= 0xE000)})
    assert len(looked_at) > 5000
    for begin in range(0, len(looked_at), 4):  # 75 pieces of a prompt count, a character takes up to 4
        text = " ".join(f"{chr(c)} a{chr(c)}\u0323\u0301" for c in looked_at[begin : begin + 4])
        assert theirs(text.encode()) == ours.encode(text), ascii(text)


def test_normal_forms_of_hangul_and_exclusions(pair):
    ours, theirs = pair
    for text in (
        "\u1112\u1161\u11ab\u1100\u1173\u11af",
        "\uac00\u11a8",
        "\u0958\u2126\u212b\ufb1d",
        "a\u0327\u0301\u0327",
        "\u0344",
    ):
        for form in ("NFC", "NFD"):
            spelled = unicodedata.normalize(form, text)
            assert theirs(spelled.encode()) == ours.encode(spelled)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(
        st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=["Cs"])), st.text("aetchr ")),
        max_size=8,
    )
)
def test_any_text(pair, parts):
    ours, theirs = pair
    text = "".join(parts)
    assert theirs(text.encode()) == ours.encode(text)


@settings(max_examples=200, deadline=None)
@given(bytes_=st.binary(max_size=40))
def test_bytes_that_are_no_text_read_as_in_python(pair, bytes_):
    ours, theirs = pair
    assert theirs(bytes_) == ours.encode(bytes_.decode("utf-8", "replace"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", "[]"),
        ("vocab.json", '{"a": "b"}'),
        ("merges.txt", "no such pieces\n"),
        ("merges.txt", "alone\n"),
        ("tokenizer_config.json", "{}"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"1": {"content": "nowhere", "normalized": false}}}'),
    ],
)
def test_damaged_files(program, kit, worded, tmp_path, name, content):
    folder = shutil.copytree(kit(worded) / "model/tokenizer", tmp_path / "files")
    (folder / name).write_text(content)
    said = cpp_kits.run(program, folder, 0, 1, 1, 1, 77, code=-6)
    assert "cmkit::Error" in said
    assert str(folder / name) in said
