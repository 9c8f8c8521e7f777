"""The page's own files: a closed list, so that no request can name anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmexport.errors import BackendError
from cmexport.kits.platforms.web import SOURCES
from cmexport.serving import INDEX

_VENDOR = "vendor"
_SUFFIXES = (".html", ".css", ".mjs")
# Modules of the kit for browsers that the page uses too, so that both turn numbers into the same bytes.
_SHARED = ("errors.mjs", "pictures.mjs")


@dataclass(frozen=True)
class Page:
    """What is served without a key: files by the path they are asked for."""

    files: Mapping[str, Path]

    @classmethod
    def read(cls, folder: Path) -> Page:
        """Read the page in `folder`, with onnxruntime-web in its `vendor/`.

        Raises:
            BackendError: the page or onnxruntime-web isn't there.
        """
        own = [p for p in sorted(folder.glob("*")) if p.suffix in _SUFFIXES]
        if not any(p.name == INDEX for p in own):
            raise BackendError(f"{folder}: the page for browsers is not there; install cmexport again")
        files = {path.relative_to(folder).as_posix(): path for path in (*own, *vendored(folder).values())}
        return cls(files | {f"kit/{name}": SOURCES / name for name in _SHARED})


def vendored(folder: Path) -> dict[str, Path]:
    """Find onnxruntime-web's files in the `vendor/` of the page in `folder`, by their names.

    Raises:
        BackendError: the list of them can't be read, or one isn't there.
    """
    try:
        pin = json.loads((folder / "vendor.json").read_text(encoding="utf-8"))
        found = {str(name): folder / _VENDOR / name for name in pin["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackendError(f"{folder / 'vendor.json'}: can't be read; install cmexport again") from error
    if missing := next((path for path in found.values() if not path.is_file()), None):
        raise BackendError(
            f"{missing}: onnxruntime-web is not there\nfetch it once: python {folder / 'fetch.py'} (32 MB from npm)"
        )
    return found
