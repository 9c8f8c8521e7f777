"""What CLIP's tokenizer needs of Unicode, packed as text for languages whose libraries know nothing of it.

The tables are made of Python's `unicodedata`, as `cmexport.tokenizer` uses it, so both agree on every character.
Numbers are written as in source maps: base64 digits of 5 bits, the lowest first, with 32 added where another follows;
signed ones are doubled, and one is added to negative ones.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# Hangul syllables are computed.
_HANGUL = range(0xAC00, 0xD7A4)


def unicode_tables() -> dict[str, str]:
    """Return packed tables by name.

    `letters` and `digits`: ranges of categories L and N, as gap after the range before and length. `marks`: ranges of
    one canonical combining class: gap, length, class. `lower`: gap, count, step and signed distance to the small
    letter; U+0130, the only one that becomes two characters, is left out. `compositions`: gap; 0 for another character,
    1 for a pair, 2 for a pair that composes again; then what it consists of, as signed distances from the entry before.
    """
    return {
        "letters": _packed(_ranges(lambda c: unicodedata.category(c)[0] == "L")),
        "digits": _packed(_ranges(lambda c: unicodedata.category(c)[0] == "N")),
        "marks": _packed(_ranges(unicodedata.combining, valued=True)),
        "lower": _packed(_lower()),
        "compositions": _packed(_compositions()),
    }


def _characters() -> Iterator[str]:
    return map(chr, range(sys.maxunicode + 1))


def _packed(numbers: Iterable[int]) -> str:
    text = []
    for number in numbers:
        rest = number
        while rest >= 32:
            text.append(_DIGITS[32 + rest % 32])
            rest //= 32
        text.append(_DIGITS[rest])
    return "".join(text)


def _signed(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number + 1


def _ranges(value: Callable[[str], int], valued: bool = False) -> Iterator[int]:
    end = 0
    for found, group in groupby(_characters(), value):
        members = [ord(character) for character in group]
        if found:
            yield from (members[0] - end, len(members))
            if valued:
                yield found
            end = members[-1] + 1


def _lower() -> Iterator[int]:
    moves = [(ord(c), ord(low) - ord(c)) for c in _characters() if len(low := c.lower()) == 1 and low != c]
    end = at = 0
    while at < len(moves):
        code, distance = moves[at]
        step = next((s for s in (1, 2) if at + 1 < len(moves) and moves[at + 1] == (code + s, distance)), 1)
        count = 1
        while at + count < len(moves) and moves[at + count] == (code + count * step, distance):
            count += 1
        yield from (code - end, count, step, _signed(distance))
        end, at = code + (count - 1) * step + 1, at + count


def _compositions() -> Iterator[int]:
    end = first = second = 0
    for character in _characters():
        spelled = unicodedata.decomposition(character)
        if not spelled or spelled.startswith("<") or ord(character) in _HANGUL:
            continue
        parts = [int(part, 16) for part in spelled.split()]
        composes = len(parts) == 2 and unicodedata.normalize("NFC", "".join(map(chr, parts))) == character
        yield from (ord(character) - end, len(parts) - 1 + composes, _signed(parts[0] - first))
        end, first = ord(character) + 1, parts[0]
        if len(parts) == 2:
            yield _signed(parts[1] - second)
            second = parts[1]
