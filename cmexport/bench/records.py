"""Files of records: JSON Lines. They are appended to, never overwritten; a line is whole or repaired around."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import ValidationError

from cmexport.bench.samples import RawSamples, read_samples
from cmexport.bench.schema import SCHEMA_VERSION, BenchRecord, first_fault
from cmexport.errors import CheckpointError, OutputError
from cmexport.files import require_file

MAX_LINE_BYTES = 4_000_000


def samples_folder(records: Path) -> Path:
    """Where the side files of a file of records lie: `<name>.samples` beside it."""
    return records.with_name(f"{records.name}.samples")


def append_record(path: Path, record: BenchRecord) -> None:
    """Add one line, and have it on the disk before returning.

    A last line without its end, left by a machine that went down, is ended first; `read_records` then names it.

    Raises:
        OutputError: the disk refuses, or something else than a file is there.
    """
    require_file(path, "a file of records", OutputError)
    line = record.model_dump_json().encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            # In append mode every write goes to the end, also when two commands write to one file.
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{path}: the record can't be added: {error.strerror}; choose another file with -o"
        ) from error


def read_records(path: Path) -> tuple[BenchRecord, ...]:
    """All records of a file.

    Raises:
        CheckpointError: it can't be read, or a line is damaged or of another version; says which.
    """
    records = []
    require_file(path, "a file of records")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if line.strip():
                    records.append(_record(f"{path}, line {number}", line))
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    return tuple(records)


def samples_of(records: Path, record: BenchRecord) -> RawSamples | None:
    """Return the raw samples of a record in the file `records`; None where none were kept.

    Raises:
        CheckpointError: the side file is missing or not what it was.
    """
    name = record.timing_ms.samples
    if name is None:
        return None
    folder, _, file = name.partition("/")
    if folder != samples_folder(records).name or not file or "/" in file or "\\" in file:
        raise CheckpointError(f"{records}: a record names samples outside {samples_folder(records).name}: {name[:100]}")
    return read_samples(records.parent / folder / file)


def _record(where: str, line: bytes) -> BenchRecord:
    if len(line) > MAX_LINE_BYTES:
        raise CheckpointError(f"{where}: too long for a record")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{where}: not JSON; delete the line, the others are whole") from None
    if not isinstance(found, dict) or "schema_version" not in found:
        raise CheckpointError(f"{where}: not a record of cmexport bench, it has no schema_version")
    version = found["schema_version"]
    if type(version) is not int or version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{where}: schema_version {str(version)[:20]}, this cmexport reads {SCHEMA_VERSION}; use the version that "
            "wrote it, or measure again"
        )
    try:
        return BenchRecord.model_validate_json(line)
    except ValidationError as error:
        raise CheckpointError(f"{where}: damaged: {first_fault(error)}") from error
