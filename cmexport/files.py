"""Files that users name: what is no regular file is refused before it is opened.

Opening a named pipe waits for a writer for ever, `/dev/zero` never ends, a folder fails in words of the system.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

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
