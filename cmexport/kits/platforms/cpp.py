"""A C++17 library with a C API, built by CMake: for desktops, Flutter, Unity and JNI. Its dependency is ONNX Runtime."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from cmexport.kits.facts import Kit
from cmexport.kits.platforms.info import Platform
from cmexport.kits.unicode_tables import unicode_tables

_OF_TOKENIZERS = frozenset(
    {
        "include/cmkit/tokenizer.hpp",
        "src/tokenizer.cpp",
        "src/unicode.cpp",
        "src/unicode.hpp",
        "src/unicode_tables.hpp.j2",
        "tests/tokenizer_test.cpp.j2",
    }
)
_OF_PHOTOS = frozenset({"sample/ppm.hpp"})
_LINE = 112


def _context(kit: Kit) -> Mapping[str, Any]:
    tables = {} if kit.tokenizer is None else unicode_tables()
    return {
        "unicode_version": unicodedata.unidata_version,
        "unicode_tables": {name: textwrap.wrap(table, _LINE) for name, table in tables.items()},
    }


def _left_out(kit: Kit) -> Collection[str]:
    edits = kit.main.input("image") is not None
    return (_OF_TOKENIZERS if kit.tokenizer is None else frozenset()) | (frozenset() if edits else _OF_PHOTOS)


PLATFORM = Platform(name="cpp", title="C++", target="onnx", context=_context, left_out=_left_out)
