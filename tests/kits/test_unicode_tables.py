"""The tables say of every character what Python's `unicodedata` says; they are unpacked here by other code."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import pairwise

import pytest

from cmexport.kits.unicode_tables import unicode_tables

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    return unicode_tables()


def numbers(table: str) -> Iterator[int]:
    value = shift = 0
    for digit in map(DIGITS.index, table):
        value |= (digit & 31) << shift
        shift += 5
        if digit < 32:
            yield value
            value = shift = 0


def signed(number: int) -> int:
    return -(number >> 1) if number & 1 else number >> 1


@pytest.mark.parametrize(("name", "category"), [("letters", "L"), ("digits", "N")])
def test_categories(tables, name, category):
    found, end = set(), 0
    values = numbers(tables[name])
    for gap in values:
        length = next(values)
        found |= set(range(end + gap, end + gap + length))
        end += gap + length
    assert found == {c for c in range(0x110000) if unicodedata.category(chr(c))[0] == category}


def test_marks(tables):
    found, end = {}, 0
    values = numbers(tables["marks"])
    for gap in values:
        length, kind = next(values), next(values)
        found |= dict.fromkeys(range(end + gap, end + gap + length), kind)
        end += gap + length
    assert found == {c: unicodedata.combining(chr(c)) for c in range(0x110000) if unicodedata.combining(chr(c))}


def test_small_letters(tables):
    found, end = {}, 0
    values = numbers(tables["lower"])
    for gap in values:
        count, step, distance = next(values), next(values), signed(next(values))
        codes = range(end + gap, end + gap + count * step, step)
        found |= {c: chr(c + distance) for c in codes}
        end = codes[-1] + 1
    assert found == {c: chr(c).lower() for c in range(0x110000) if chr(c).lower() != chr(c) and c != 0x130}
    assert chr(0x130).lower() == "i\u0307"


def test_compositions(tables):
    found, end, first, second = {}, 0, 0, 0
    values = numbers(tables["compositions"])
    for gap in values:
        code, kind = end + gap, next(values)
        first += signed(next(values))
        if kind:
            second += signed(next(values))
        found[code] = (kind, chr(first) + (chr(second) if kind else ""))
        end = code + 1
    assert all(before < after for before, after in pairwise(found))
    for code in range(0x110000):
        whole, spelled = chr(code), unicodedata.decomposition(chr(code))
        if not spelled or spelled.startswith("<") or 0xAC00 <= code < 0xD7A4:
            assert code not in found
            continue
        kind, parts = found[code]
        assert parts == "".join(chr(int(part, 16)) for part in spelled.split())
        assert (kind == 2) == (len(parts) == 2 and unicodedata.normalize("NFC", parts) == whole)
