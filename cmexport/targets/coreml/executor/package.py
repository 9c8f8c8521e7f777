"""The outside of an `.mlpackage`: which of its files is the model."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.files import require_file


def model_file(package: Path) -> Path:
    """The `model.mlmodel` that a package's Manifest.json names as its root.

    Raises:
        CheckpointError: there is no such package, or its manifest is damaged or leads outside.
    """
    if not package.is_dir():
        raise CheckpointError(f"{package}: there is no such .mlpackage; a package is a folder with a Manifest.json")
    manifest = package / "Manifest.json"
    content = _json(manifest)
    try:
        entry = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{manifest}: it names no model; copy the whole package again") from error
    if not isinstance(entry, str) or not entry or "\0" in entry:
        raise CheckpointError(f"{manifest}: it names no model; copy the whole package again")
    relative = PurePosixPath(entry)
    path = package / "Data" / relative
    outside = relative.is_absolute() or ".." in relative.parts
    if outside or not path.resolve().is_relative_to(package.resolve()):
        raise CheckpointError(f"{manifest}: it names a model outside the package: {entry!r}; don't trust this file")
    if not path.is_file():
        raise CheckpointError(f"{path}: the model is missing from its package; copy the whole package again")
    return path


def _json(path: Path) -> Any:
    require_file(path, "a manifest")
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror}); copy the whole package again") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: this is not JSON; copy the whole package again") from error
