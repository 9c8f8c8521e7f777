"""Manifests and the files they vouch for, in and out of a folder."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from cmexport.artifact.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileRecord, Manifest
from cmexport.artifact.version1 import upgraded
from cmexport.artifact.writing import write_atomically
from cmexport.errors import CheckpointError, CmexportError
from cmexport.files import require_file, sha256_of


def describe_file(folder: Path, path: Path, role: str) -> FileRecord:
    """Size and hash of a file below `folder`."""
    return FileRecord(
        path=path.relative_to(folder).as_posix(), sha256=sha256_of(path), bytes=path.stat().st_size, role=role
    )


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write `manifest.json` into an artefact's folder.

    Raises:
        OutputError: it can't be written.
    """
    path = folder / MANIFEST_NAME
    write_atomically(path, manifest.model_dump_json(indent=2).encode() + b"\n")
    return path


def artifact_folder(subject: str | None) -> Path | None:
    """The artefact folder a path means (the folder, or a file in it), or None if it is something else."""
    if subject is None:
        return None
    path = Path(subject)
    # A Core ML package and a Core AI asset are folders, and parts of the artefact.
    package = path.suffix in (".mlpackage", ".aimodel")
    folder = path if path.is_dir() and not package else path.parent
    is_part = path.is_dir() or path.suffix in (".onnx", ".engine", ".json", ".png")
    return folder if is_part and (folder / MANIFEST_NAME).is_file() else None


def read_manifest(folder: Path, *, check: bool = True) -> Manifest:
    """Read an artefact's manifest.

    Args:
        folder: the artefact.
        check: also compare size and SHA-256 of every file it lists; about a second per gigabyte.

    Raises:
        CheckpointError: no folder, no manifest, a damaged one, one of another version, or files that don't match.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such artefact folder")
    require_file(path, "a manifest")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not an artefact, it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged, not JSON; export the model again") from error
    if not isinstance(found, dict) or "schema_version" not in found:
        raise CheckpointError(f"{path}: not a manifest of cmexport, it has no schema_version")
    version = found["schema_version"]
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        raise CheckpointError(
            f"{path}: schema_version {str(version)[:20]}, this cmexport reads 1 and {SCHEMA_VERSION}; "
            "use the version that wrote it, or export the model again"
        )
    try:
        if version == 1:
            content = json.dumps(upgraded(found)).encode()
    except (CmexportError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: inputs, outputs or tasks are amiss; export the model again") from error
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"][:8])
        more = f" (and {error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
        raise CheckpointError(
            f"{path}: damaged: {where}: {first['msg'][:200]}{more}; export the model again"
        ) from error
    if check:
        check_files(folder, manifest)
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every listed file with its size and hash.

    Raises:
        CheckpointError: a file is missing, can't be read, isn't the one that was exported, or isn't listed at all.
    """
    listed = {record.path for record in manifest.files}
    golden = [g for g in (manifest.golden, *(f.golden for f in manifest.functions)) if g is not None]
    named = [*(p for g in manifest.graphs for p in g.files), *(p for g in golden for p in (g.inputs, g.expected))]
    if loose := [path for path in named if path not in listed]:
        raise CheckpointError(f"{folder / MANIFEST_NAME}: damaged: {loose[0]} has no hash; export the model again")
    for record in manifest.files:
        path = folder / record.path
        try:
            if not path.is_file():
                raise CheckpointError(f"{path}: missing; the manifest lists it, export the model again")
            size = path.stat().st_size
            if size != record.bytes:
                raise CheckpointError(
                    f"{path}: {size} bytes, but {record.bytes} were exported; copy it again or export the model again"
                )
            if sha256_of(path) != record.sha256:
                raise CheckpointError(
                    f"{path}: changed since it was exported (SHA-256 differs); export the model again"
                )
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
