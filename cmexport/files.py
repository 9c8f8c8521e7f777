"""Files that users name: what is no regular file is refused before it is opened.

Opening a named pipe waits for a writer for ever, `/dev/zero` never ends, a folder fails in words of the system.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from cmexport.errors import CheckpointError, CmexportError

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def require_file(
    path: Path | str, what: str = "a file", error: type[CmexportError] = CheckpointError, *, folder: bool = False
) -> None:
    """Refuse a path that leads to something else than a regular file; one that leads nowhere is the caller's to tell.

    Args:
        path: links are followed.
        what: what is expected, for the message: "a recipe".
        error: what to raise.
        folder: accept folders too.

    Raises:
        CmexportError: `error`, for a folder, a named pipe, a socket or a device.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - also takes text
    except (OSError, ValueError):
        return
    for is_kind, name in _KINDS:
        if is_kind(mode) and not (folder and name == "a folder"):
            raise error(f"{path}: is {name}, not {what}")


def read_file(path: Path, what: str = "a file", error: type[CmexportError] = CheckpointError) -> bytes:
    """All bytes of a regular file.

    Raises:
        CmexportError: `error`, see `require_file`.
        OSError: it is missing or can't be read.
    """
    require_file(path, what, error)
    return path.read_bytes()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal; about a second per gigabyte.

    Raises:
        OSError: it is missing or can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, most_bytes: int = 1_000_000) -> dict[str, Any]:
    """Read a configuration, which is a JSON object of at most `most_bytes`.

    Raises:
        CheckpointError: no such file, no JSON object, or too large to be a configuration.
    """
    text = read_text(path, most_bytes)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is no JSON object")
    return content


def read_text(path: Path, most_bytes: int = 1_000_000) -> str:
    """Read a configuration in UTF-8 of at most `most_bytes`.

    Raises:
        CheckpointError: no such file, another encoding, or too large to be a configuration.
    """
    require_file(path, "a configuration")
    try:
        if path.stat().st_size > most_bytes:
            raise CheckpointError(f"{path}: is larger than any configuration")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is no UTF-8 text ({error})") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
