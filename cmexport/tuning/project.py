"""Write a found schedule into `cmexport.toml`, leaving the rest of the file as its author wrote it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmexport.artifact import write_atomically
from cmexport.errors import OutputError
from cmexport.files import require_file


def with_schedule(text: str, sigmas: Sequence[float], checkpoint: str | None = None, weights: str | None = None) -> str:
    """The project file with `[schedule] sigmas` replaced or added, and `checkpoint` and `weights` if it names none yet.

    Raises:
        OutputError: the file is written so that this can't be done without touching something else.
    """
    before: dict[str, Any] = tomllib.loads(text)
    wanted = {**before, "schedule": {"sigmas": [float(s) for s in sigmas]}}
    lines, inside, kept = text.splitlines(), False, []
    for line in lines:
        if line.lstrip().startswith("["):
            inside = line.split("#")[0].strip() == "[schedule]"
        if not inside:
            kept.append(line)
    while kept and not kept[-1].strip():
        kept.pop()
    for name, value in (("weights", weights), ("checkpoint", checkpoint)):
        if value is not None and name not in before:
            kept.insert(0, f"{name} = {json.dumps(value)}")
            wanted[name] = value
    listed = ", ".join(repr(float(s)) for s in sigmas)
    written = "\n".join([*kept, *([""] if kept else []), "[schedule]", f"sigmas = [{listed}]", ""])
    try:
        same = tomllib.loads(written) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise OutputError(f"cmexport.toml: write `[schedule]` and `sigmas = [{listed}]` into it yourself")
    return written


def write_schedule(
    path: Path, sigmas: Sequence[float], checkpoint: str | None = None, weights: str | None = None
) -> None:
    """Write the schedule into a project file, new or old.

    Raises:
        OutputError: the file can't be written, or not without touching something else.
    """
    require_file(path, "a project file", OutputError)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    write_atomically(path, with_schedule(text, sigmas, checkpoint, weights).encode())
