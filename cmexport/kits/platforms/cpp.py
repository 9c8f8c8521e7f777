"""A C++17 library with a C API, built by CMake, on ONNX Runtime alone: for desktops, Flutter, Unity and JNI."""

from __future__ import annotations

import json
import shlex
import textwrap
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cmexport.kits.facts import Kit, KitRun
from cmexport.kits.identifiers import identifier
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
_OF_PHOTOS = frozenset({"include/cmkit/photo.hpp", "src/photo.cpp", "tests/photo_test.cpp"})
_OF_A_SAMPLE_THAT_EDITS = frozenset({"sample/ppm.hpp"})
_LINE = 112

# What a method takes for an input of the graph: the parameter and its type, in the order that they are written.
_PARAMETERS = {
    "image": ("image", "const cmkit::Picture&"),
    "mask": ("mask", "const cmkit::Picture&"),
    "label": ("label", "Label"),
    "prompt": ("prompt", "Prompt"),
    "tokens": ("text", "std::string_view"),
    "guidance": ("guidance", "float"),
    "noise": ("seed", "std::uint64_t"),
    "renoise": ("seed", "std::uint64_t"),
}


@dataclass(frozen=True)
class Method:
    """The method that draws a run's pictures: its name, and types by the names of its parameters."""

    name: str
    parameters: Mapping[str, str]


def _method(kit: Kit, run: KitRun) -> Method:
    taken = dict(found for name, found in _PARAMETERS.items() if run.input(name))
    return Method(identifier(kit.method(run), "snake"), taken)


def _context(kit: Kit) -> Mapping[str, Any]:
    tables = {} if kit.tokenizer is None else unicode_tables()
    return {
        "methods": {run.name: _method(kit, run) for run in kit.runs},
        "literal": _literal,
        "quoted": shlex.quote,
        "unicode_version": unicodedata.unidata_version,
        "unicode_tables": {name: textwrap.wrap(table, _LINE) for name, table in tables.items()},
    }


def _literal(text: str) -> str:
    """Spell a string of C++. JSON's is one but for trigraphs, which older standards replace within strings, too."""
    return json.dumps(text, ensure_ascii=False).replace("?", "\\?")


def _left_out(kit: Kit) -> Collection[str]:
    needed = {
        _OF_TOKENIZERS: kit.tokenizer is not None,
        _OF_PHOTOS: bool(kit.editing),
        _OF_A_SAMPLE_THAT_EDITS: kit.main.input("image") is not None,
    }
    return frozenset().union(*(files for files, is_needed in needed.items() if not is_needed))


PLATFORM = Platform(name="cpp", title="C++", target="onnx", context=_context, left_out=_left_out)
