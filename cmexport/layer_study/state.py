"""Scores of layers on disk, so that a stopped run goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from cmexport.artifact import write_atomically
from cmexport.errors import CheckpointError
from cmexport.files import require_file
from cmexport.quantize.layer_scores import KINDS, LayerScores


class _Stored(BaseModel):
    """The file: what was asked, and the scores by layer key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: dict[str, JsonValue]
    layers: dict[str, LayerScores]


class ScoreFile:
    """Scores by layer key; a file of another question is not believed.

    Args:
        path: JSON file.
        question: everything that a score depends on besides its layer: plain JSON values.
        pictures: behind each score.

    Raises:
        CheckpointError: the file is no file of scores, or belongs to another question.
    """

    def __init__(self, path: Path, question: Mapping[str, JsonValue], pictures: int) -> None:
        self._path, self._question, self._pictures = path, dict(question), pictures
        self._scores: dict[str, LayerScores] = self._read() if path.exists() else {}

    def _read(self) -> dict[str, LayerScores]:
        require_file(self._path, "the state of a plan")
        try:
            stored = _Stored.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError, RecursionError) as error:
            raise self._refused("not the state of a plan") from error
        asked, known = self._question, stored.question
        if changed := sorted(k for k in {*asked, *known} if asked.get(k) != known.get(k)):
            raise self._refused(f"the state of another plan ({', '.join(changed)} differ)")
        lengths = {len(scores.of(kind).squared_errors) for scores in stored.layers.values() for kind in KINDS}
        if lengths - {self._pictures}:
            raise self._refused("not the state of a plan: scores of different numbers of pictures")
        return stored.layers

    def _refused(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {reason}; delete it or name another with --state")

    @property
    def scores(self) -> Mapping[str, LayerScores]:
        """What is known so far."""
        return self._scores

    def note(self, key: str, scores: LayerScores) -> None:
        """Add a layer's scores and write everything down at once.

        Raises:
            OutputError: the disk refuses.
        """
        self._scores = {**self._scores, key: scores}
        stored = _Stored(question=self._question, layers=self._scores)
        write_atomically(self._path, (stored.model_dump_json(indent=1) + "\n").encode())
