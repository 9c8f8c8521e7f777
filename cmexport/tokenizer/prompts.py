"""Prompts that ship with the package: ordinary ones to calibrate and verify with, strange ones for test vectors."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from cmexport.errors import UsageError
from cmexport.files import read_file

_HERE = files("cmexport.tokenizer")


@cache
def calibration_prompts() -> tuple[str, ...]:
    """Return 64 short prompts as people write them; the first 32 are also fit for a model of emoji."""
    return tuple(_HERE.joinpath("prompts.txt").read_text(encoding="utf-8").splitlines())


@cache
def vector_prompts() -> tuple[str, ...]:
    """Return texts that tokenizers tend to get wrong: emoji, accents, scripts, control characters, too many words."""
    return tuple(json.loads(_HERE.joinpath("vector_prompts.json").read_text(encoding="utf-8")))


def read_prompts(path: Path, most: int = 10_000) -> tuple[str, ...]:
    """Read a file of prompts, one a line; empty lines don't count.

    Raises:
        UsageError: it can't be read, is no text, or holds none or more than `most`.
    """
    try:
        text = read_file(path, "a list of prompts", UsageError).decode()
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no UTF-8 text; write one prompt a line") from error
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not 1 <= len(found) <= most:
        raise UsageError(f"{path}: holds {len(found)} prompts; write 1 to {most}, one a line")
    return found
