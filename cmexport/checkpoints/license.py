"""Under which licence a checkpoint's weights are given away, where it says so itself; nothing is guessed."""

from __future__ import annotations

import re
from pathlib import Path

from cmexport.checkpoints.safetensors_file import metadata_of
from cmexport.errors import CmexportError
from cmexport.files import read_file

_CARDS = ("README.md", "MODEL_CARD.md")
_MOST_BYTES = 1_000_000
_FACT = re.compile(r"^(license(?:_name)?):[ \t]*(?:\r?\n\s*-\s*)?(\S[^\r\n#]*)", re.MULTILINE)


def license_of(path: Path) -> tuple[str | None, str]:
    """Find the licence of a file or folder of weights, and what says it; None and what was looked at otherwise.

    The header of a safetensors file comes first (`license`, or `modelspec.license`), then the model card beside it, or
    in its folder: `license:` in the lines between `---` that it begins with.
    """
    if path.suffix == ".safetensors":
        facts = metadata_of(path)
        for key in ("license", "modelspec.license"):
            if found := facts.get(key, "").strip():
                return found[:200], f"{key} in its header"
    folder = path if path.is_dir() else path.parent
    for card in _CARDS:
        if found := _of_card(folder / card):
            return found[:200], card
    return None, f"no license in {' or '.join(_CARDS)} {'inside' if path.is_dir() else 'beside it'}"


def _of_card(card: Path) -> str:
    try:
        if card.stat().st_size > _MOST_BYTES:
            return ""
        text = read_file(card).decode()
    except (OSError, UnicodeDecodeError, CmexportError):
        return ""
    head = re.match(r"---\r?\n(.*?)^---", text, re.DOTALL | re.MULTILINE)
    facts: dict[str, str] = {name: value.strip(" \t\"'") for name, value in _FACT.findall(head[1] if head else "")}
    if facts.get("license") == "other" and "license_name" in facts:
        return facts["license_name"]
    return facts.get("license", "")
