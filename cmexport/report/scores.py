"""Scores of picture quality from files: `cmexport tune --table --json` and `cmexport verify --features F --json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from cmexport.bench.schema import first_fault
from cmexport.errors import CheckpointError
from cmexport.files import require_file

_MAX_BYTES = 4_000_000
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class NotScoresError(CheckpointError):
    """A JSON file of something else: in a folder that is looked through, nobody's fault."""


class _Loose(BaseModel):
    """Only what the report shows; other fields of the two commands may come and go."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StepsScore(_Loose):
    """A row of `tune --table`: `distance` is the Fréchet distance from real pictures, null when none was judged."""

    steps: PositiveInt
    sigmas: tuple[_Finite, ...]
    schedule: str = ""
    distance: _Finite | None = None
    latency_ms: _Finite
    bytes: NonNegativeInt


class Interval(_Loose):
    """A distance with its 95 % interval."""

    value: _Finite
    low: float | None = None
    high: float | None = None


class DistanceScore(_Loose):
    """Fréchet distances, as `tuning.distribution.Distances`."""

    artifact_reference: Interval
    artifact_real: Interval | None = None
    reference_real: Interval | None = None


class DistributionScore(_Loose):
    """What `verify --features` measured on one graph."""

    judge: str
    pictures: PositiveInt
    distances: DistanceScore | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of picture quality from one file.

    Attributes:
        file: where they were read.
        folder: name of the artefact's folder, where it is about one.
        rows: of `tune --table`.
        distributions: of `verify --features`, by the graph's name; "" for the only one.
    """

    file: Path
    folder: str = ""
    rows: tuple[StepsScore, ...] = ()
    distributions: tuple[tuple[str, DistributionScore], ...] = ()

    def of_graph(self, folder: str, task: str) -> DistributionScore | None:
        """Return the scores of a graph of an artefact."""
        if folder != self.folder:
            return None
        return next((score for name, score in self.distributions if name in ("", task)), None)


class _Table(_Loose):
    rows: tuple[StepsScore, ...] = Field(min_length=1)


class _Single(_Loose):
    folder: str
    distribution: DistributionScore


class _Several(_Loose):
    folder: str
    functions: dict[str, DistributionScore]


def read_scores(path: Path) -> Scores:
    """Read one file of scores.

    Raises:
        NotScoresError: from neither command.
        CheckpointError: unreadable or damaged.
    """
    require_file(path, "a file of scores")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes are no scores")
        content = path.read_bytes()
        found = json.loads(content)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise NotScoresError(f"{path}: not JSON") from None
    keys = found.keys() if isinstance(found, dict) else set()
    try:
        if "rows" in keys:
            return Scores(path, rows=_Table.model_validate_json(content).rows)
        if "distribution" in keys:
            single = _Single.model_validate_json(content)
            return Scores(path, Path(single.folder).name, distributions=(("", single.distribution),))
        if "functions" in keys:
            several = _Several.model_validate_json(content)
            return Scores(path, Path(several.folder).name, distributions=tuple(several.functions.items()))
    except ValidationError as error:
        raise CheckpointError(f"{path}: damaged scores: {first_fault(error)}") from error
    raise NotScoresError(
        f"{path}: neither a file of records (*.jsonl), nor what tune --table --json or verify --features --json print"
    )
