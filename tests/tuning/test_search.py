"""The search finds the bottom of a valley in few evaluations, side by side, and goes on where it was stopped."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError
from cmexport.tuning.search import ScoreBook, search


class Valley:
    """A score with one bottom in each place; counts what it is asked."""

    def __init__(self, *bottom):
        self.bottom, self.asked = bottom, []

    def __call__(self, candidates):
        self.asked.extend(candidates)
        return [float(sum((a - b) ** 2 for a, b in zip(c[1:], self.bottom, strict=True))) for c in candidates]


def silent(_levels, _score):
    pass


@settings(max_examples=60, deadline=None)
@given(bottom=st.integers(1, 38))
def test_two_steps_find_the_bottom_in_few_scores(bottom):
    valley = Valley(bottom)
    found = search((0, 20), 39, valley, ScoreBook(None, {}), silent)
    assert found.levels == (0, bottom)
    assert found.score == 0.0
    assert len(valley.asked) == len(set(valley.asked)) == found.evaluated <= 20


@settings(max_examples=30, deadline=None)
@given(bottoms=st.lists(st.integers(1, 38), min_size=3, max_size=3, unique=True).map(sorted))
def test_four_steps_move_one_after_the_other(bottoms):
    found = search((0, 10, 20, 30), 39, Valley(*bottoms), ScoreBook(None, {}), silent)
    assert found.levels == (0, *bottoms)


def test_the_start_is_never_made_worse():
    # A score with no valley: the search may miss the best, but not fall behind what it began with.
    def spikes(candidates):
        return [0.5 if c == (0, 20) else float(c[1] % 2) + 1.0 for c in candidates]

    assert search((0, 20), 39, spikes, ScoreBook(None, {}), silent).score == 0.5


def test_a_stopped_search_goes_on_where_it_was(tmp_path):
    path = tmp_path / "state.json"

    def breaks(candidates):
        if len(ScoreBook(path, {"seed": 1})) >= 4:
            raise KeyboardInterrupt
        return Valley(22)(candidates)

    with pytest.raises(KeyboardInterrupt):
        search((0, 20), 39, breaks, ScoreBook(path, {"seed": 1}), silent)
    kept = {tuple(map(int, key.split(","))) for key in json.loads(path.read_text())["scores"]}
    assert len(kept) >= 4
    valley = Valley(22)
    found = search((0, 20), 39, valley, ScoreBook(path, {"seed": 1}), silent)
    assert found.levels == (0, 22)
    assert not kept & set(valley.asked)
    again = Valley(22)
    assert search((0, 20), 39, again, ScoreBook(path, {"seed": 1}), silent) == found
    assert again.asked == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"question": {}, "scores": {"a": 1}}', '{"question": 3}'])
def test_a_file_that_is_no_state_is_refused(tmp_path, content):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match="--state"):
        ScoreBook(path, {})


def test_the_state_of_another_question_is_refused_by_name(tmp_path):
    path = tmp_path / "state.json"
    ScoreBook(path, {"seed": 1, "pictures": 8}).note({(0, 1): 2.0})
    with pytest.raises(CheckpointError, match="pictures differ"):
        ScoreBook(path, {"seed": 1, "pictures": 9})
    assert ScoreBook(path, {"seed": 1, "pictures": 8})[0, 1] == 2.0
