"""A Swift package for iPhones, iPads and Macs: Core ML, nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cmexport.kits.facts import Kit, KitFile, KitRun
from cmexport.kits.identifiers import identifier, identifiers
from cmexport.kits.platforms.info import Platform

_RESOURCES = "Sources/@pascal@Kit/Resources"
# Core ML's packages hold several functions from these on; the code itself asks for 16 and 13.
_SEVERAL_FUNCTIONS = ("18", "15")
_ELEMENTS = frozenset({"float32", "int32", "uint8"})


@dataclass(frozen=True)
class Package:
    """A package of the model: where it lies below the model folder, a name that no other content has, its files."""

    path: str
    key: str
    files: tuple[KitFile, ...]


@dataclass(frozen=True)
class Method:
    """How an app asks for a picture of a run.

    Attributes:
        run: what it asks for.
        name: of the method.
        parameters: as Swift declares them, without seeds.
        wish: as Swift passes them on.
    """

    run: KitRun
    name: str
    parameters: tuple[str, ...]
    wish: tuple[str, ...]

    @property
    def seeded(self) -> tuple[str, ...]:
        """The parameters with the seed, where there is noise."""
        return (*self.parameters, "seed: UInt64") if self.draws else self.parameters

    @property
    def draws(self) -> bool:
        """Whether noise is drawn."""
        return self.run.input("noise") is not None


def _context(kit: Kit) -> Mapping[str, Any]:
    ios, macos = _SEVERAL_FUNCTIONS if any(g.function for run in kit.runs for g in run.graphs) else ("16", "13")
    names = identifiers([_method_name(kit, run) for run in kit.runs], "camel")
    return {
        "ios": ios,
        "macos": macos,
        "module": f"{identifier(kit.name, 'pascal')}Kit",
        "packages": _packages(kit),
        "methods": tuple(_method(kit, run, name) for run, name in zip(kit.runs, names, strict=True)),
        "swift": swift_string,
    }


def _packages(kit: Kit) -> tuple[Package, ...]:
    """Group the model's files by the package that they lie in; a tokenizer's are none of them."""
    opened = {graph.file for run in kit.runs for graph in run.graphs}

    def package(file: KitFile) -> str:
        return next((path for path in opened if file.path == path or file.path.startswith(f"{path}/")), "")

    grouped = groupby(sorted(kit.files, key=lambda file: (package(file), file.path)), key=package)
    return tuple(
        Package(path, hashlib.sha256("".join(f"{f.sha256} {f.path}\n" for f in files).encode()).hexdigest()[:16], files)
        for path, files in ((path, tuple(files)) for path, files in grouped)
        if path
    )


def _method_name(kit: Kit, run: KitRun) -> str:
    editing = kit.editing
    return "edit" if run in editing and len(editing) == 1 else run.name


def _method(kit: Kit, run: KitRun, name: str) -> Method:
    alone = run.input("image") is None
    asked = [
        ("image", "_ image: CGImage", "image: try Picture(image, width: {w}, height: {h}, channels: {c})"),
        ("mask", "keeping mask: CGImage", "mask: try Picture(mask, width: {w}, height: {h}, channels: 1)"),
        ("label", f"{'_ ' if alone else ''}label: Label", "label: label.rawValue"),
        ("prompt", f"{'_ ' if alone else ''}prompt: Prompt", "prompt: prompt.rawValue"),
        ("tokens", f"{'_ ' if alone else ''}text: String", "text: text"),
        ("guidance", f"guidance: Float = {kit.guidance}", "guidance: guidance"),
    ]
    height, width, channels = run.picture
    taken = [(parameter, wish) for name, parameter, wish in asked if run.input(name)]
    return Method(
        run,
        name,
        tuple(parameter for parameter, _ in taken),
        tuple(wish.format(w=width, h=height, c=channels) for _, wish in sorted(taken, key=lambda t: _PLACES[t[1][:4]])),
    )


# Swift wants arguments in the order of the fields of `Generator.Wish`.
_PLACES = {name[:4]: place for place, name in enumerate(("label", "prompt", "text", "guidance", "image", "mask"))}


def _refusal(kit: Kit) -> str:
    tensors = [t for run in kit.runs for graph in run.graphs for t in (*graph.inputs, graph.output)]
    foreign = next((t for t in tensors if t.dtype not in _ELEMENTS), None)
    return "" if foreign is None else f"'{foreign.name}' is {foreign.dtype}, which Core ML has no arrays of"


def swift_string(text: str) -> str:
    """Spell text as a string of Swift; all but printable ASCII by its number."""
    return '"' + re.sub(r'[^ !#-\[\]-~]', lambda found: f"\\u{{{ord(found[0]):x}}}", text) + '"'


PLATFORM = Platform(
    name="ios",
    title="iOS and macOS",
    target="coreml",
    model_folder=f"{_RESOURCES}/model",
    golden_folder=f"{_RESOURCES}/golden",
    context=_context,
    refusal=_refusal,
)
