"""Scores do not depend on who computed them or in how many runs, and calibration happens once."""

from __future__ import annotations

import sys

import pytest

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import BackendError, CheckpointError
from cmexport.layer_study import scoring
from cmexport.layer_study.scoring import Rounding, Setup, captured_graph, require_layers, score_layers
from cmexport.layer_study.state import ScoreFile
from cmexport.model import SampleRequest
from cmexport.progress import Progress
from cmexport.quantize.calibration import CalibrationOptions, calibrate
from cmexport.quantize.codes import INTEGER_PRODUCTS, RoundingOptions, encode
from cmexport.quantize.int8 import LARGE_MODEL_CALIBRATION
from cmexport.quantize.layer_scores import LayerScorer
from cmexport.quantize.layers import find_layers
from cmexport.quantize.precision_plan import PrecisionPlan

OVERRIDES = {"image_size": "8", "num_head_channels": "32"}
ROUNDING = Rounding(PrecisionPlan(), INTEGER_PRODUCTS, 6)


@pytest.fixture(scope="module")
def captured(tiny):
    return captured_graph(load_checkpoint(tiny, OVERRIDES), SampleRequest())


@pytest.fixture(scope="module")
def layers(captured):
    return find_layers(captured)


def setup_of(tiny, jobs=1):
    return Setup(str(tiny), tuple(sorted(OVERRIDES.items())), False, SampleRequest(), 2, jobs)


@pytest.fixture(scope="module")
def plain(captured, layers):
    """All scores by a plain loop."""
    seen = calibrate(captured, layers, CalibrationOptions(pictures=6))
    scorer = LayerScorer(captured, 2)
    return {x.key: scorer.score(encode(x, seen.layers[x.key], INTEGER_PRODUCTS, RoundingOptions())) for x in layers}


def test_scores_are_those_of_a_plain_loop_in_the_graphs_order(tiny, captured, layers, plain, tmp_path):
    told = []
    progress = Progress(pictures=lambda *counts: told.append(counts))
    book = ScoreFile(tmp_path / "s.json", {}, 2)
    found = score_layers(setup_of(tiny), captured, layers, ROUNDING, book, progress)
    assert list(found) == [layer.key for layer in layers]
    assert found == plain
    assert told == [("layers", i + 1, len(layers)) for i in range(len(layers))]
    assert len({score.both.psnr_db for score in found.values()}) == len(layers)


def test_a_stopped_run_loses_at_most_the_layer_at_hand(tiny, captured, layers, plain, tmp_path, monkeypatch):
    path, question = tmp_path / "s.json", {"checkpoint": "x"}
    ordinary, calls = LayerScorer.score, []

    def interrupted(self, codes):
        calls.append(codes.layer.key)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return ordinary(self, codes)

    monkeypatch.setattr(LayerScorer, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_layers(setup_of(tiny), captured, layers, ROUNDING, ScoreFile(path, question, 2))
    assert len(ScoreFile(path, question, 2).scores) == 3
    found = score_layers(setup_of(tiny), captured, layers, ROUNDING, ScoreFile(path, question, 2))
    assert found == plain
    # The three finished ones were not done again.
    assert sorted(calls) == sorted([*(layer.key for layer in layers), layers[3].key])


def test_layers_are_calibrated_together_and_only_where_scores_are_missing(
    tiny, captured, layers, plain, tmp_path, monkeypatch
):
    ordinary, calls = scoring.prepare, []

    def counted(graph, plan, *arguments, **options):
        prepared = ordinary(graph, plan, *arguments, **options)
        calls.append(set(prepared.calibration.layers))
        return prepared

    monkeypatch.setattr(scoring, "prepare", counted)
    book = ScoreFile(tmp_path / "s.json", {}, 2)
    for layer in layers[2:]:
        book.note(layer.key, plain[layer.key])
    assert score_layers(setup_of(tiny), captured, layers, ROUNDING, book) == plain
    assert calls == [{layers[0].key, layers[1].key}]
    score_layers(setup_of(tiny), captured, layers, ROUNDING, book)
    assert len(calls) == 1


def test_processes_give_the_same_scores(tiny, captured, layers, plain, tmp_path):
    book = ScoreFile(tmp_path / "s.json", {}, 2)
    found = score_layers(setup_of(tiny, jobs=2), captured, layers, ROUNDING, book)
    assert list(found) == list(plain)
    for key, score in found.items():
        for kind in ("weights", "activations", "both"):
            assert score.of(kind).psnr_db == pytest.approx(plain[key].of(kind).psnr_db, abs=0.05)
            assert score.of(kind).ssim == pytest.approx(plain[key].of(kind).ssim, abs=1e-6)


def test_without_joblib_one_process_works_and_more_are_a_sentence(tiny, captured, layers, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib", None)
    seen = []
    monkeypatch.setattr(scoring, "prepare", lambda *a, **k: seen.append(a))
    with pytest.raises(BackendError, match=r"cmexport\[tune\]"):
        score_layers(setup_of(tiny, jobs=2), captured, layers, ROUNDING, ScoreFile(tmp_path / "a.json", {}, 2))
    assert not seen
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "joblib", None)
    book = ScoreFile(tmp_path / "b.json", {}, 2)
    assert len(score_layers(setup_of(tiny), captured, layers[:1], ROUNDING, book)) == 1


def test_large_models_get_no_products_whatever_the_number_of_pictures(layers, monkeypatch):
    assert scoring._calibration_options(layers, None) is None
    assert scoring._calibration_options(layers, 300) == CalibrationOptions(pictures=300)
    monkeypatch.setattr(scoring, "LARGE_MODEL", 1000)
    found = scoring._calibration_options(layers, 300)
    assert (found.pictures, found.gram_pictures) == (300, LARGE_MODEL_CALIBRATION.gram_pictures)


def test_a_model_without_layers_is_refused():
    with pytest.raises(CheckpointError, match=r"x\.pt: has no convolution"):
        require_layers((), "x.pt")
