"""Python files that this user has named on the command line: naming one is asking for it to be run.

An artefact's manifest names the module that its network came from, but a manifest is data that may come from anyone.
`verify` runs such a module only if the same bytes at the same place were named before by the same user, or are named
again. The list lies in the user's state folder; where that can't be written, `verify` asks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

_MOST = 1000


def remember(module: Path) -> None:
    """Note that a Python file was named; silently not where there is no place for it."""
    with contextlib.suppress(OSError, RuntimeError):
        line, listing = _line(module), _listing()
        lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
        if line in lines:
            return
        listing.parent.mkdir(parents=True, exist_ok=True)
        beside = listing.with_name(f"{listing.name}.{os.getpid()}")
        beside.write_text("\n".join([*lines[-_MOST + 1 :], line, ""]), encoding="utf-8")
        beside.replace(listing)


def remembered(module: Path) -> bool:
    """Whether this file, with these bytes, was named before."""
    try:
        return _line(module) in _listing().read_text(encoding="utf-8").splitlines()
    except (OSError, RuntimeError, UnicodeDecodeError):
        return False


def _line(module: Path) -> str:
    where = module.absolute()
    return f"{hashlib.sha256(where.read_bytes()).hexdigest()}  {where}"


def _listing() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "cmexport" / "named-modules"
