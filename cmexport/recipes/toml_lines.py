"""In which line of a TOML file each key and each element stands: `tomllib` gives values only.

The text has been read by `tomllib` before, so this need not find mistakes; it must only know where strings, comments
and brackets end.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

KeyPath = tuple[str | int, ...]
"""A way into the data: keys of tables and indices of arrays."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
# The longest form first. A string in three quotes may end in up to five of them.
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}' r"|'''(?:[^']|'(?!''))*'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)


def find_lines(text: str) -> dict[KeyPath, int]:
    """Lines, counted from 1, by path; a table that is opened several times has the first.

    Args:
        text: valid TOML.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._counts: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        base: KeyPath = ()
        self._skip(_GAP)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                base = self._header()
            else:
                self._pair(base)
            self._skip(_GAP)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, "the text is not the TOML that tomllib has read"
        self._at = match.end()
        return match[0]

    def _note(self, path: KeyPath, start: int) -> None:
        self._lines.setdefault(path, bisect_right(self._starts, start))

    def _header(self) -> KeyPath:
        start, array = self._at, self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        path: KeyPath = ()
        for key in self._keys():
            path = (*self._inside(path), key)
            self._note(path, start)
        self._at += 2 if array else 1
        if array:
            self._counts[path] = self._counts.get(path, -1) + 1
            self._note((*path, self._counts[path]), start)
        return self._inside(path)

    def _inside(self, path: KeyPath) -> KeyPath:
        """The table that a header's path means: of an array of tables, the latest."""
        return (*path, self._counts[path]) if path in self._counts else path

    def _pair(self, base: KeyPath) -> None:
        start, path = self._at, base
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _keys(self) -> list[str]:
        """A dotted key and the blanks after it."""
        keys = []
        while True:
            self._skip(_BLANK)
            if self._text[self._at] in "\"'":
                keys.append(str(tomllib.loads(f"key = {self._skip(_STRING)}")["key"]))
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_BLANK)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first == "[":
            self._items("]", path)
        elif first == "{":
            self._items("}", path)
        else:
            self._skip(_STRING if first in "\"'" else _SCALAR)

    def _items(self, closing: str, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_GAP)
            found = self._text[self._at]
            if found == closing:
                self._at += 1
                return
            if found == ",":
                self._at += 1
            elif closing == "}":
                self._pair(path)
            else:
                self._note((*path, index), self._at)
                self._value((*path, index))
                index += 1
