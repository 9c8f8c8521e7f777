"""The folder that a Core ML package is: its files, what its description says, and equal bytes for equal exports.

The description and the program are one small file, `model.mlmodel`; the weights lie beside it. Nothing here reads
weights but to hash them.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.files import require_file
from cmexport.signature import Signature
from cmexport.targets.base import files_inside
from cmexport.targets.coreml.library import specification

MANIFEST = "Manifest.json"
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"

_DATE = "com.github.apple.coremltools.conversion_date"


def package_of(folder: Path, files: Sequence[str]) -> Path:
    """The package among an artefact's files; its manifest comes first."""
    return (folder / files[0]).parent


def package_files(package: Path) -> tuple[str, ...]:
    """Paths of a package's files, relative to the folder it lies in; the manifest first, then in order of name."""
    return files_inside(package, MANIFEST)


def describe(package: Path, signature: Signature) -> None:
    """Say in the package what it is and what its inputs mean; drop the date of conversion.

    Raises:
        OSError: it can't be written.
    """
    specification = _read(package)
    description = specification.description
    description.metadata.author = "cmexport"
    what = "Edits a picture" if signature.given else "Draws a picture from noise"
    description.metadata.shortDescription = f"{what}: a consistency model with its sampler."
    description.metadata.userDefined.pop(_DATE, None)
    meanings = {i.name: i.meaning for i in signature.inputs}
    for feature in description.input:
        feature.shortDescription = _sentence(meanings[feature.name])
    output = signature.output
    said = "finished picture, from 0 to 255, an image" if output.is_bytes else output.meaning
    for feature in description.output:
        feature.shortDescription = _sentence(said)
    _write(package, specification)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def join_descriptions(joined: Path, packages: Mapping[str, Path]) -> None:
    """Carry what the packages of single functions say of themselves over to the one that has joined them.

    Raises:
        OSError: it can't be written.
    """
    specification = _read(joined)
    first = _read(next(iter(packages.values()))).description.metadata
    specification.description.metadata.CopyFrom(first)
    _write(joined, specification)


def stamp(package: Path, facts: Mapping[str, str]) -> None:
    """Write facts into the package's user metadata; the weights are not touched.

    Raises:
        OSError: it can't be written.
    """
    specification = _read(package)
    for key, value in facts.items():
        specification.description.metadata.userDefined[key] = value
    _write(package, specification)


def make_deterministic(package: Path) -> None:
    """Identifiers from the content in place of random ones: the same export gives the same bytes.

    Raises:
        OSError: it can't be written.
    """
    _write(package, _read(package))
    path = package / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entries = manifest["itemInfoEntries"]
    renamed = {old: _identifier(package, entry) for old, entry in entries.items()}
    manifest["itemInfoEntries"] = {renamed[old]: entries[old] for old in sorted(entries, key=renamed.__getitem__)}
    manifest["rootModelIdentifier"] = renamed[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _identifier(package: Path, entry: Mapping[str, str]) -> str:
    """A UUID made of an item's path and the hashes of its files."""
    digest = hashlib.sha256(entry["path"].encode())
    for file in _files_of(package / "Data" / PurePosixPath(entry["path"])):
        digest.update(file.relative_to(package).as_posix().encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return str(uuid.UUID(bytes=digest.digest()[:16], version=5)).upper()


def _files_of(path: Path) -> Iterator[Path]:
    yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)


def _read(package: Path) -> Any:
    model, _ = specification()
    path = package / SPECIFICATION
    message = model.Model()
    require_file(path, "a Core ML specification")
    try:
        message.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own class depends on its implementation
        raise CheckpointError(f"{path}: damaged, not a Core ML specification; export the model again") from error
    return message


def _write(package: Path, message: Any) -> None:
    # Maps are in random order otherwise, another one for every process.
    (package / SPECIFICATION).write_bytes(message.SerializeToString(deterministic=True))
