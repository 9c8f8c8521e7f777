"""Recipe files as merged data in which every entry knows the file and line it came from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmexport.errors import UsageError
from cmexport.files import require_file
from cmexport.recipes.nearest import nearest_file
from cmexport.recipes.toml_lines import KeyPath, find_lines

MAX_BYTES = 1_000_000
MAX_DEPTH = 8
"""A recipe needs four: targets, a name, gate_db, a precision."""
MAX_BASES = 16

# Replaced whole by a recipe that extends another: half of one schedule and half of another would be neither.
_WHOLE = ("schedules",)


@dataclass(frozen=True)
class Place:
    """Where an entry stands."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True)
class Document:
    """A recipe with everything it extends.

    Attributes:
        path: the recipe itself.
        data: merged entries, without `extends`.
        places: by path into the data.
        files: all files read, the recipe first.
    """

    path: Path
    data: Mapping[str, Any]
    places: Mapping[KeyPath, Place]
    files: tuple[Path, ...]

    def place(self, path: KeyPath) -> Place:
        """Where an entry stands, or the table it lies in; line 1 where that is nowhere."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(self.path, 1)


def read_document(path: Path) -> Document:
    """Read a recipe and what it extends.

    Raises:
        UsageError: a file is missing or no TOML, or recipes extend each other in a circle; names file and line.
    """
    require_file(path, "a recipe", UsageError, folder=True)
    if not path.is_file():
        what = "a folder, not a recipe" if path.is_dir() else "no such recipe"
        raise UsageError(f"{path}: {what}{nearest_file(path, suffix='.toml')}")
    layers = [_read(path)]
    while (base := layers[-1].data.get("extends")) is not None:
        place = layers[-1].place(("extends",))
        if not isinstance(base, str) or not base:
            raise UsageError(f'{place}: extends must name another recipe, e.g. extends = "base.toml"')
        file = place.file.parent / base
        if _same_file(file, layers):
            chain = " -> ".join(str(part.path) for part in (*layers, Document(file, {}, {}, ())))
            raise UsageError(f"{place}: recipes extend each other in a circle: {chain}")
        if len(layers) > MAX_BASES:
            raise UsageError(f"{place}: more than {MAX_BASES} recipes extend each other")
        require_file(file, "a recipe", UsageError)
        if not file.is_file():
            raise UsageError(f"{place}: there is no recipe {file}{nearest_file(file, suffix='.toml')}")
        layers.append(_read(file))
    data: dict[str, Any] = {}
    places: dict[KeyPath, Place] = {}
    for layer in reversed(layers):
        _merge(data, layer.data, (), places)
        places.update(layer.places)
    data.pop("extends", None)
    return Document(path, data, places, tuple(layer.path for layer in layers))


def _same_file(file: Path, layers: list[Document]) -> bool:
    return any(file.resolve() == layer.path.resolve() for layer in layers)


def _read(path: Path) -> Document:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB; this is no recipe")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        data = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8; save the file in that encoding") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}{_fault(str(error), text)}") from error
    except (RecursionError, ValueError) as error:  # int() refuses numbers of more than 4300 digits
        deep = isinstance(error, RecursionError)
        raise UsageError(f"{path}: {'nested too deep' if deep else 'holds a number that is too long'}") from error
    _check_depth(path, data)
    return Document(path, data, {key: Place(path, line) for key, line in find_lines(text).items()}, (path,))


def _fault(message: str, text: str) -> str:
    """What tomllib complains of, with the line in front."""
    found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    if found is None:
        return f": not valid TOML: {message}"
    line = found[1] or str(text.rstrip("\n").count("\n") + 1)
    return f", line {line}: not valid TOML: {message[: found.start()]}"


def _check_depth(path: Path, data: Any) -> None:
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise UsageError(f"{path}: nested more than {MAX_DEPTH} deep; this is no recipe")


def _merge(below: dict[str, Any], above: Mapping[str, Any], path: KeyPath, places: dict[KeyPath, Place]) -> None:
    """Put the entries of `above` over those below; places of what is replaced are forgotten."""
    for key, value in above.items():
        here = (*path, key)
        whole = (len(path) == 1 and path[0] in _WHOLE) or (here == ("checkpoint",) and _names_file(value))
        if isinstance(value, Mapping) and isinstance(below.get(key), dict) and not whole:
            _merge(below[key], value, here, places)
            continue
        for known in [known for known in places if known[: len(here)] == here]:
            del places[known]
        below[key] = _copy(value)


def _names_file(checkpoint: Any) -> bool:
    """Address, hash and constants belong to a file: another file doesn't inherit them."""
    return isinstance(checkpoint, Mapping) and "file" in checkpoint


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value
