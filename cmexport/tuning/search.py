"""Ternary search for the levels between the first and the last (openai/consistency_models scripts/ternary_search.py).

The levels stand on a fine grid of Karras levels; the middle ones are moved one after the other, each between its
neighbours, until a round changes nothing. Every score is kept in a file, so a search that was stopped goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmexport.artifact import write_atomically
from cmexport.errors import CheckpointError
from cmexport.files import require_file

Levels = tuple[int, ...]
Scorer = Callable[[Sequence[Levels]], list[float]]
"""Scores of several candidates at once (smaller is better), so that they can be computed side by side."""


@dataclass(frozen=True)
class Found:
    """The best levels, as indices into the grid, and their score."""

    levels: Levels
    score: float
    evaluated: int


class ScoreBook:
    """Scores by candidate, on disk when given a path; a book of another question is not believed.

    Args:
        path: JSON file; None keeps the scores in memory.
        question: everything a score depends on besides the levels.

    Raises:
        CheckpointError: the file is no book of scores, or belongs to another question.
    """

    def __init__(self, path: Path | None, question: Mapping[str, object]) -> None:
        self._path, self._question = path, dict(question)
        self._scores: dict[Levels, float] = {}
        if path is not None and path.exists():
            self._scores = self._read(path)

    def _read(self, path: Path) -> dict[Levels, float]:
        require_file(path, "the state of a search")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = {tuple(map(int, key.split(","))): float(score) for key, score in content["scores"].items()}
            question = dict(content["question"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: not the state of a search; delete it or name another with --state"
            ) from error
        changed = sorted(k for k in {*question, *self._question} if question.get(k) != self._question.get(k))
        if changed:
            raise CheckpointError(
                f"{path}: the state of another search ({', '.join(changed)} differ); delete it or name another with "
                "--state"
            )
        return found

    def __contains__(self, levels: Levels) -> bool:
        return levels in self._scores

    def __getitem__(self, levels: Levels) -> float:
        return self._scores[levels]

    def __len__(self) -> int:
        return len(self._scores)

    def note(self, scores: Mapping[Levels, float]) -> None:
        """Add scores and write them down at once."""
        self._scores.update(scores)
        if self._path is not None:
            listed = {",".join(map(str, key)): score for key, score in sorted(self._scores.items())}
            text = json.dumps({"question": self._question, "scores": listed}, indent=1) + "\n"
            write_atomically(self._path, text.encode())


def search(start: Levels, last: int, score: Scorer, book: ScoreBook, tell: Callable[[Levels, float], None]) -> Found:
    """Move every level but the first for the smallest score.

    Args:
        start: indices to begin with, rising from 0 (sigma_max).
        last: index of sigma_min, which no level may reach.
        score: see `Scorer`.
        book: what is scored already.
        tell: called with every new score.
    """

    def value(*candidates: Levels) -> list[float]:
        fresh = [c for c in dict.fromkeys(candidates) if c not in book]
        if fresh:
            found = dict(zip(fresh, score(fresh), strict=True))
            book.note(found)
            for levels, result in found.items():
                tell(levels, result)
        return [book[c] for c in candidates]

    best = start
    while True:
        before = best
        for place in range(1, len(best)):
            low = best[place - 1] + 1
            high = (best[place + 1] if place + 1 < len(best) else last) - 1
            best = _ternary(best, place, low, high, value)
        if best == before or len(best) <= 2:
            return Found(best, value(best)[0], len(book))


def _ternary(levels: Levels, place: int, low: int, high: int, value: Callable[..., list[float]]) -> Levels:
    """The best index for one place in low .. high, if the score has one valley there; never worse than `levels`."""

    def at(index: int) -> Levels:
        return (*levels[:place], index, *levels[place + 1 :])

    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        left_score, right_score = value(at(left), at(right))
        if left_score <= right_score:
            high = right - 1 if right - 1 > left else left
        else:
            low = left + 1 if left + 1 < right else right
    candidates = [levels, *(at(index) for index in range(low, high + 1))]
    scores = value(*candidates)
    return candidates[min(range(len(candidates)), key=scores.__getitem__)]
