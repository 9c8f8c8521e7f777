"""What a platform says of itself; its files are the templates in `templates/<name>/`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cmexport.kits.facts import Kit


def _nothing(_: Kit) -> Mapping[str, Any]:
    return {}


def _usable(_: Kit) -> str:
    return ""


def _everything_needed(_: Kit) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Platform:
    """Where apps of one kind run, and how a kit for them is laid out.

    Attributes:
        name: on the command line; of its folder of templates.
        title: what people call it.
        target: what an artefact must have been exported for.
        model_folder: where the artefact's files go, below the kit; `@snake@` and `@pascal@` are the model's name.
        golden_folder: where golden pictures go.
        context: what its templates know beside `kit`.
        shared: modules of cmexport that a kit takes as they are, as "noise.py", by their paths in the kit.
        refusal: why an artefact can't be used there, in words; "" where it can.
        left_out: files of its templates, by their paths there, that a kit does not need.
    """

    name: str
    title: str
    target: str
    model_folder: str = "model"
    golden_folder: str = "golden"
    context: Callable[[Kit], Mapping[str, Any]] = _nothing
    shared: Callable[[Kit], Mapping[str, str]] = _nothing
    refusal: Callable[[Kit], str] = _usable
    left_out: Callable[[Kit], Collection[str]] = _everything_needed
