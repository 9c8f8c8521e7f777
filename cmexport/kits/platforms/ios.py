"""A Swift package for iPhones, iPads and Macs: Core ML, nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cmexport.artifact.manifest import FileRecord
from cmexport.kits.facts import Kit, KitRun
from cmexport.kits.identifiers import identifier, identifiers
from cmexport.kits.platforms.info import Platform

_RESOURCES = "Sources/@pascal@Kit/Resources"
# The macOS of each iOS; the kit's code itself asks for the first.
_MACOS = {16: 13, 17: 14, 18: 15}
# Core ML's packages hold several functions from this iOS on.
_SEVERAL_FUNCTIONS = 18
_ELEMENTS = frozenset({"float32", "int32", "uint8"})


@dataclass(frozen=True)
class Package:
    """A package of the model: where it lies below the model folder, a name that no other content has, its files."""

    path: str
    key: str
    files: tuple[FileRecord, ...]


@dataclass(frozen=True)
class Taken:
    """An input that an app gives: as Swift declares it, as a call spells it, and as the generator passes it on."""

    declared: str
    called: str
    wish: str


@dataclass(frozen=True)
class Method:
    """How an app asks for a picture of a run."""

    run: KitRun
    name: str
    taken: tuple[Taken, ...]

    @property
    def draws(self) -> bool:
        """Whether noise is drawn, so that there is a seed."""
        return self.run.input("noise") is not None

    @property
    def parameters(self) -> tuple[str, ...]:
        """All but the seed."""
        return tuple(taken.declared for taken in self.taken)

    @property
    def wish(self) -> str:
        """Arguments of `Generator.Wish`, in the order of its fields."""
        fields = ("label", "prompt", "text", "guidance", "image", "mask")
        wishes = [taken.wish for taken in self.taken]
        return ", ".join(sorted(wishes, key=lambda wish: fields.index(wish.partition(":")[0])))

    def call(self, seed: str) -> str:
        """Spell a call that draws a picture of the last label or prompt, from a seed."""
        seeds = [f"seed: {seed}"] if self.draws else []
        return f"{self.name}({', '.join([*(taken.called for taken in self.taken if taken.called), *seeds])})"


def _context(kit: Kit) -> Mapping[str, Any]:
    ios = _oldest(kit)
    names = identifiers([kit.method(run) for run in kit.runs], "camel")
    methods = tuple(_method(kit, run, name) for run, name in zip(kit.runs, names, strict=True))
    return {
        "ios": ios,
        "macos": _MACOS[ios],
        "module": f"{identifier(kit.name, 'pascal')}Kit",
        "packages": _packages(kit),
        "methods": methods,
        "usual": methods[0],
        "editing": next((method for method in methods if method.run.input("image")), None),
        # Several runs that draw, in other numbers of steps perhaps: the first one's pictures have a way between them.
        "walking": next((method for method in methods if not method.run.input("image")), None),
        "swift": swift_string,
    }


def _oldest(kit: Kit) -> int:
    """Return the oldest iOS that opens the model: what it was exported for."""
    asked = kit.session.get("ios")
    ios = asked if isinstance(asked, int) and asked in _MACOS else min(_MACOS)
    several = any(graph.function for run in kit.runs for graph in run.graphs)
    return max(ios, _SEVERAL_FUNCTIONS) if several else ios


def _packages(kit: Kit) -> tuple[Package, ...]:
    """Group the model's files by the package that they lie in; a tokenizer's are none of them."""
    opened = {graph.file for run in kit.runs for graph in run.graphs}

    def package(file: FileRecord) -> str:
        return next((path for path in opened if file.path == path or file.path.startswith(f"{path}/")), "")

    grouped = groupby(sorted(kit.files, key=lambda file: (package(file), file.path)), key=package)
    return tuple(
        Package(path, hashlib.sha256("".join(f"{f.sha256} {f.path}\n" for f in files).encode()).hexdigest()[:16], files)
        for path, files in ((path, tuple(files)) for path, files in grouped)
        if path
    )


def _method(kit: Kit, run: KitRun, name: str) -> Method:
    height, width, channels = run.picture
    fitted = f"width: {width}, height: {height}, channels:"
    # The first argument has no name: the picture where there is one, else what is to be seen.
    alone = run.input("image") is None
    asked = {
        "image": Taken("_ image: CGImage", "photo", f"image: try Picture(image, {fitted} {channels})"),
        "mask": Taken("keeping mask: CGImage", "keeping: mask", f"mask: try Picture(mask, {fitted} 1)"),
        "label": _wished("label", "Label", _last(kit.labels, "label"), "label.rawValue", alone),
        "prompt": _wished("prompt", "Prompt", _last(kit.prompts, "prompt"), "prompt.rawValue", alone),
        "tokens": _wished("text", "String", '"crying cat"', "text", alone),
        "guidance": Taken(f"guidance: Float = {kit.guidance}", "", "guidance: guidance"),
    }
    return Method(run, name, tuple(taken for name, taken in asked.items() if run.input(name)))


def _wished(name: str, swift_type: str, example: str, value: str, alone: bool) -> Taken:
    declared, called = (f"_ {name}", example) if alone else (name, f"{name}: {example}")
    return Taken(f"{declared}: {swift_type}", called, f"{name}: {value}")


def _last(texts: tuple[str, ...] | None, otherwise: str) -> str:
    return "" if texts is None else f".{identifiers(texts, 'camel', otherwise)[-1]}"


def _refusal(kit: Kit) -> str:
    tensors = [t for run in kit.runs for graph in run.graphs for t in (*graph.inputs, graph.output)]
    foreign = next((t for t in tensors if t.dtype not in _ELEMENTS), None)
    return "" if foreign is None else f"'{foreign.name}' is {foreign.dtype}, which Core ML has no arrays of"


def swift_string(text: str) -> str:
    """Spell text as a string of Swift; all but printable ASCII by its number."""
    return '"' + re.sub(r"[^ !#-\[\]-~]", lambda found: f"\\u{{{ord(found[0]):x}}}", text) + '"'


PLATFORM = Platform(
    name="ios",
    title="iOS and macOS",
    target="coreml",
    model_folder=f"{_RESOURCES}/model",
    golden_folder=f"{_RESOURCES}/golden",
    context=_context,
    refusal=_refusal,
)
