"""A platform's templates as the files of a kit."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from cmexport.kits.facts import Kit
from cmexport.kits.identifiers import FILTERS, identifier, identifiers
from cmexport.kits.platforms.info import Platform

_SUFFIX = ".j2"
# What a tool of the language leaves in a folder of sources.
_NO_SOURCES = frozenset({"__pycache__", "node_modules", ".build", ".DS_Store"})


def render(kit: Kit, platform: Platform) -> dict[str, bytes]:
    """Return a kit's own files by their paths below its folder.

    Files ending in `.j2` are jinja2 templates that know `kit`, `platform` and the platform's context; all others are
    copied. `@snake@` and `@pascal@` in paths are the model's name. What renders to nothing but white space is left out,
    as is what the platform leaves out.
    """
    environment = _environment()
    context = {"kit": kit, "platform": platform, **platform.context(kit)}
    left_out = platform.left_out(kit)
    rendered: dict[str, bytes] = {}
    for path, source in _sources(files("cmexport.kits") / "templates" / platform.name):
        if path in left_out:
            continue
        name = spelled(path.removesuffix(_SUFFIX), kit)
        if path.endswith(_SUFFIX):
            text = environment.from_string(source.read_text(encoding="utf-8")).render(context)
            if text.strip():
                rendered[name] = text.encode()
        else:
            rendered[name] = source.read_bytes()
    for path, module in platform.shared(kit).items():
        rendered[spelled(path, kit)] = files("cmexport").joinpath(module).read_bytes()
    return rendered


def spelled(path: str, kit: Kit) -> str:
    """Put the model's name into a path."""
    return path.replace("@snake@", identifier(kit.name, "snake")).replace("@pascal@", identifier(kit.name, "pascal"))


def _environment() -> Any:
    from jinja2 import Environment, StrictUndefined

    # Code of other languages is written, not HTML; what enters it from outside goes through `identifiers` or `tojson`.
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters.update(FILTERS)
    environment.filters["identifiers"] = identifiers
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return environment


def _sources(folder: Traversable, below: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name in _NO_SOURCES:
            continue
        if entry.is_dir():
            yield from _sources(entry, f"{below}{entry.name}/")
        else:
            yield below + entry.name, entry
