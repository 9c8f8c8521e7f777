"""Prompts that ship with the package: ordinary ones to calibrate and verify with, strange ones for test vectors."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

_HERE = files("cmexport.tokenizer")


@cache
def calibration_prompts() -> tuple[str, ...]:
    """Return 64 short prompts as people write them; the first 32 are also fit for a model of emoji."""
    return tuple(_HERE.joinpath("prompts.txt").read_text(encoding="utf-8").splitlines())


@cache
def vector_prompts() -> tuple[str, ...]:
    """Return texts that tokenizers tend to get wrong: emoji, accents, scripts, control characters, too many words."""
    return tuple(json.loads(_HERE.joinpath("vector_prompts.json").read_text(encoding="utf-8")))
