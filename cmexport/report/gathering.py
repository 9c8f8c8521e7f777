"""What lies under the named paths: records, artefacts and scores of picture quality."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmexport.artifact import Manifest, read_manifest
from cmexport.artifact.manifest import MANIFEST_NAME
from cmexport.bench.jobs import artifact_record
from cmexport.bench.records import read_records, samples_folder
from cmexport.bench.schema import ArtifactRecord, BenchRecord
from cmexport.errors import CheckpointError, CmexportError, UsageError
from cmexport.report.scores import NotScoresError, Scores, read_scores

DEPTH = 3
"""Levels of folders that are looked through: `out/`, `out/<model>/`, `out/<model>/<artefact>/`."""
MOST_ENTRIES = 20_000
"""A folder with more is somebody's home, not an output folder."""
_REJECTED = ".rejected"


@dataclass(frozen=True)
class FoundRecord:
    """A record and the file of records that holds it."""

    file: Path
    record: BenchRecord


@dataclass(frozen=True)
class FoundArtifact:
    """One graph of an artefact.

    Attributes:
        folder: the artefact.
        manifest: as if this graph were alone.
        facts: name, size and hash, as `cmexport bench` writes them into records.
    """

    folder: Path
    manifest: Manifest
    facts: ArtifactRecord

    @property
    def rejected(self) -> bool:
        """Whether its parity gate was missed when it was written."""
        return self.folder.name.endswith(_REJECTED) or (
            self.manifest.parity is not None and not self.manifest.parity.passed
        )

    @property
    def evaluations(self) -> int:
        """Network evaluations per picture."""
        return len(self.manifest.sampling.evaluations)


@dataclass(frozen=True)
class Gathered:
    """Everything that was found; `notes` says what was skipped and why."""

    records: tuple[FoundRecord, ...] = ()
    artifacts: tuple[FoundArtifact, ...] = ()
    scores: tuple[Scores, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Basket:
    records: dict[str, FoundRecord] = field(default_factory=dict)
    artifacts: dict[Path, tuple[FoundArtifact, ...]] = field(default_factory=dict)
    scores: dict[Path, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def gather(paths: Sequence[Path]) -> Gathered:
    """Read what is named, and what lies in named folders.

    A named file that can't be read is an error; one that merely lies in a named folder is skipped with a note. Records
    that are in two files are taken once. Links to folders are not followed.

    Raises:
        UsageError: nothing was found.
        CheckpointError: a named path is missing, damaged, or none of ours.
    """
    basket = _Basket()
    for path in paths:
        if path.is_dir() and not (path / MANIFEST_NAME).is_file():
            for found in _walk(path):
                try:
                    _take(found, basket)
                except NotScoresError:
                    continue
                except CmexportError as error:
                    basket.notes.append(f"skipped: {error}")
        else:
            _take(path, basket)
    if not basket.records and not basket.artifacts:
        named = ", ".join(str(p) for p in paths)
        why = f"\n{basket.notes[0]}" if basket.notes else ""
        raise UsageError(f"{named}: no records and no artefacts here; cmexport bench writes records{why}")
    artifacts = tuple(graph for folder in sorted(basket.artifacts) for graph in basket.artifacts[folder])
    return Gathered(tuple(basket.records.values()), artifacts, tuple(basket.scores.values()), tuple(basket.notes))


def _walk(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Artefact folders, `*.jsonl` and `*.json` below, in order of their names."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted((e for _, e in zip(range(MOST_ENTRIES), listing, strict=False)), key=lambda e: e.name)
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be read: {error.strerror}") from error
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if (path / MANIFEST_NAME).is_file():
                yield path
            elif depth > 1 and path.suffix != ".samples":
                yield from _walk(path, depth - 1)
        elif entry.is_file(follow_symlinks=False) and path.suffix in (".jsonl", ".json"):
            yield path


def _take(path: Path, basket: _Basket) -> None:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.name == MANIFEST_NAME:
        path = path.parent
    if path.is_dir():
        basket.artifacts[path.resolve()] = _graphs(path)
    elif not path.is_file():
        raise CheckpointError(f"{path}: not a file or folder")
    elif path.suffix == ".json":
        basket.scores[path.resolve()] = read_scores(path)
    else:
        for record in read_records(path):
            known = basket.records.get(line := record.model_dump_json())
            if known is None or not samples_folder(known.file).is_dir():
                basket.records[line] = FoundRecord(path, record)


def _graphs(folder: Path) -> tuple[FoundArtifact, ...]:
    # Unchecked: hashing gigabytes of weights is for --check.
    whole = read_manifest(folder, check=False)
    graphs = []
    for name in whole.function_names:
        manifest = whole.function(name)
        try:
            graphs.append(FoundArtifact(folder, manifest, artifact_record(folder, manifest)))
        except (ValueError, LookupError) as error:
            raise CheckpointError(f"{folder}: its manifest lists no model file, or inputs and outputs amiss") from error
    return tuple(graphs)
