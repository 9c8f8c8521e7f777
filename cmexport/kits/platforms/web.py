"""A browser, or Node: plain ES modules over onnxruntime-web, and the page that draws while somebody types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmexport.kits.facts import Kit, KitRun
from cmexport.kits.identifiers import identifiers
from cmexport.kits.platforms.info import Platform
from cmexport.tokenizer import calibration_prompts

ONNXRUNTIME_WEB = "1.30.0"
"""The release of the npm package that kits depend on: the one in bench_device/web/vendor.json."""

SOURCES = Path(__file__).resolve().parent.parent / "templates" / "web" / "src"
"""The kit's own modules, some of which other pages of cmexport use too."""

_SUGGESTIONS = 8

_TYPES = {
    "label": ("label", "Label"),
    "prompt": ("prompt", "Prompt"),
    "tokens": ("prompt", "string"),
    "guidance": ("guidance", "number"),
}
"""What an app gives for an input: its name there and its TypeScript type."""


def _context(kit: Kit) -> Mapping[str, Any]:
    """Return what `index.mjs`, its types and the manual need beside the facts."""
    listed = {"Label": kit.labels, "Prompt": kit.prompts}
    return {
        "onnxruntime_web": ONNXRUNTIME_WEB,
        "enumerations": [(title, identifiers(names, "camel")) for title, names in listed.items() if names],
        "package": kit.name.lower().replace("_", "-").replace(".", "-") + "-kit",
        "drawings": [run for run in kit.runs if run.input("image") is None],
        "asked": _asked,
        "suggestions": calibration_prompts()[:_SUGGESTIONS] if kit.tokenizer else (),
    }


def _asked(run: KitRun) -> list[tuple[str, str]]:
    """Name what an app gives a run beside seed and pictures, each with its type."""
    return [_TYPES[tensor.name] for tensor in run.inputs if tensor.name in _TYPES]


PLATFORM = Platform(name="web", title="the web", target="onnx", context=_context)
