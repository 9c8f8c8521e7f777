"""Blocks of code in a README, to be run or compiled as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(readme: Path, language: str) -> list[str]:
    """The blocks of one language, in order."""
    return [code for name, code in _BLOCK.findall(readme.read_text(encoding="utf-8")) if name == language]
