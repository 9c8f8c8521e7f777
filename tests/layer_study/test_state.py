"""The file of scores: it comes back as it was, and anything else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError, OutputError
from cmexport.layer_study.state import ScoreFile
from cmexport.quantize.layer_scores import KindScore, LayerScores

QUESTION = {"checkpoint": "ab", "sigmas": [80.0, 1.4], "label": None, "rounding": {"margin": 1.1}}


def layer_scores(error=1e-7, pictures=2):
    one = KindScore(squared_errors=(error,) * pictures, ssim=1 - error)
    return LayerScores(weights=one, activations=one, both=one)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.json"


def test_what_is_noted_is_there_the_next_time(path):
    assert not ScoreFile(path, QUESTION, 2).scores
    assert not path.exists()
    first = ScoreFile(path, QUESTION, 2)
    for index in range(3):
        first.note(f"layer.{index}", layer_scores(0.1 / 3 * (index + 1)))
        assert ScoreFile(path, QUESTION, 2).scores == first.scores
    assert list(first.scores) == ["layer.0", "layer.1", "layer.2"]
    assert [p.name for p in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"checkpoint": "cd"}, "checkpoint differ"),
        ({"sigmas": [80.0]}, "sigmas differ"),
        ({"label": 1}, "label differ"),
        ({"rounding": {"margin": 1.2}, "seed": 1}, "rounding, seed differ"),
    ],
)
def test_the_scores_of_another_question_are_not_believed(path, changed, words):
    ScoreFile(path, QUESTION, 2).note("a", layer_scores())
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as refused:
        ScoreFile(path, {**QUESTION, **changed}, 2)
    assert words in str(refused.value)
    assert "--state" in str(refused.value)
    assert path.read_bytes() == before


def damaged(content, how):
    if how == "truncated":
        return content[: len(content) // 2]
    data = json.loads(content)
    match how:
        case "nan":
            data["layers"]["a"]["both"]["squared_errors"][0] = float("nan")
        case "negative":
            data["layers"]["a"]["both"]["squared_errors"][0] = -1.0
        case "text":
            data["layers"]["a"]["both"]["ssim"] = "good"
        case "kind missing":
            del data["layers"]["a"]["weights"]
        case "picture missing":
            data["layers"]["a"]["weights"]["squared_errors"].pop()
        case "more":
            data["note"] = 1
        case "list":
            data = [data]
        case "tune's":
            data = {"question": QUESTION, "scores": {"0,1": 2.0}}
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "how", ["truncated", "nan", "negative", "text", "kind missing", "picture missing", "more", "list", "tune's"]
)
def test_a_damaged_file_is_refused_in_a_line(path, how):
    ScoreFile(path, QUESTION, 2).note("a", layer_scores())
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(CheckpointError) as refused:
        ScoreFile(path, QUESTION, 2)
    assert str(refused.value).startswith(f"{path}: not the state of a plan")
    assert len(str(refused.value).splitlines()) == 1


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([b"", b"null", b"{}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b'{"layers": 1e999}']),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=4),
            lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["question", "layers", "a"]), x),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_bytes_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any-state.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        ScoreFile(path, QUESTION, 2)


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(CheckpointError, match="not the state"):
        ScoreFile(tmp_path, QUESTION, 2)
    with pytest.raises(OutputError):
        ScoreFile(tmp_path / "none" / "state.json", QUESTION, 2).note("a", layer_scores())
