"""The page's own files: a closed list, so that no request can name anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmexport.errors import BackendError

CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
INDEX = "index.html"
_VENDOR = "vendor"


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
        own = [p for p in sorted(folder.glob("*")) if p.suffix in CONTENT_TYPES]
        if not any(p.name == INDEX for p in own):
            raise BackendError(f"{folder}: the page for browsers is not there; install cmexport again")
        try:
            pin = json.loads((folder / "vendor.json").read_text(encoding="utf-8"))
            needed = [folder / _VENDOR / name for name in pin["files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BackendError(f"{folder / 'vendor.json'}: can't be read; install cmexport again") from error
        if missing := next((p for p in needed if not p.is_file()), None):
            raise BackendError(
                f"{missing}: onnxruntime-web is not there\nfetch it once: python {folder / 'fetch.py'} (32 MB from npm)"
            )
        return cls({path.relative_to(folder).as_posix(): path for path in (*own, *needed)})


def content_type(path: str) -> str:
    """Tell a file's content type by its ending; anything unknown is bytes."""
    return CONTENT_TYPES.get(Path(path).suffix, "application/octet-stream")
