"""`--calibration-prompts`: whatever is drawn while a model of prompts is exported and verified says one of them."""

from __future__ import annotations

import json

import pytest
from support.latent_pipelines import tiny_pipeline

import cmexport as library
from cmexport.checkpoints import load_checkpoint
from cmexport.errors import UsageError
from cmexport.quantize import careful
from cmexport.quantize.layer_scores import KindScore, LayerScorer, LayerScores
from cmexport.signature import Tokens

PROMPTS = ("red heart", "a crying cat", "green car")


@pytest.fixture
def drawn(monkeypatch):
    """Every row of tokens that anything draws from here on."""
    rows = set()
    draw = Tokens.draw

    def noted(self, shape, generator, index):
        row = draw(self, shape, generator, index)
        rows.add(tuple(row))
        return row

    monkeypatch.setattr(Tokens, "draw", noted)
    return rows


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(PROMPTS) + "\n\n")
    return tmp_path / "words.txt"


def test_everything_is_drawn_with_them(drawn, listed, cmexport, tmp_path, monkeypatch):
    monkeypatch.setattr(careful, "_PICTURES", 3)
    monkeypatch.setattr(careful, "_SAMPLES", 1)
    model = load_checkpoint(tiny_pipeline())
    # Loading tries a model on a row of its own.
    expected = {tuple(model.tokenizer.encode(prompt)) for prompt in PROMPTS} | drawn
    # Where noise is predicted w8 calibrates, and ranks layers by gradients.
    options = ("--w8", "--steps", 1, "--seeds", 8, "--calibration-prompts", listed)
    outcome = cmexport("onnx", tiny_pipeline(), *options, "-o", tmp_path / "out")
    assert outcome.code in (0, 4), outcome.stderr
    assert drawn == expected
    (folder,) = (tmp_path / "out").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["wording"]["calibration_prompts"] == list(PROMPTS)
    drawn.clear()
    outcome = cmexport("verify", folder, "--seeds", 8)
    assert outcome.code in (0, 4), outcome.stderr
    assert drawn == expected


def test_a_plan_is_scored_with_them(drawn, listed, cmexport, tmp_path, monkeypatch):
    score = KindScore(squared_errors=(0.1,), ssim=1.0)
    monkeypatch.setattr(LayerScorer, "score", lambda *_: LayerScores(weights=score, activations=score, both=score))
    load_checkpoint(tiny_pipeline())
    loading = set(drawn)
    small = ("--steps", 1, "--pictures", 1, "--calibration", 3)
    outcome = cmexport("plan", tiny_pipeline(), *small, "--calibration-prompts", listed, cwd=tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert len(drawn - loading) == len(PROMPTS)
    listed.write_text("a dog\n")
    outcome = cmexport("plan", tiny_pipeline(), *small, "--calibration-prompts", listed, cwd=tmp_path)
    assert (outcome.code, "the state of another plan (prompts differ)" in outcome.stderr) == (3, True)


def test_what_makes_no_sense_is_refused_in_a_sentence(listed, tiny_checkpoint, cmexport, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    refused = {
        "this model takes no prompt": (tiny_checkpoint, "--set", "image_size=8", "--calibration-prompts", listed),
        "holds 0 prompts": (tiny_pipeline(), "--calibration-prompts", tmp_path / "empty.txt"),
        "can't be read": (tiny_pipeline(), "--calibration-prompts", tmp_path / "none.txt"),
        "--calibration-prompts and --prompts contradict": (
            *(tiny_pipeline(), "--prompts", listed),
            *("--calibration-prompts", listed),
        ),
    }
    for words, arguments in refused.items():
        outcome = cmexport("onnx", *arguments, "-o", tmp_path / "out")
        assert outcome.code == 2, outcome.stderr
        assert words in outcome.stderr
        assert not (tmp_path / "out").exists()


def test_python_takes_texts_or_a_file(listed, tmp_path):
    model = load_checkpoint(tiny_pipeline())
    for index, given in enumerate((PROMPTS, listed)):
        artifact = library.export(model, steps=1, calibration_prompts=given, verify=False, out=tmp_path / str(index))
        assert artifact.manifest.wording.calibration_prompts == PROMPTS
        law = artifact.manifest.signature.inputs[-1].law
        assert law.sentences == tuple(tuple(model.tokenizer.words(prompt)) for prompt in PROMPTS)
    with pytest.raises(UsageError, match=r"^calibration_prompts: an empty list"):
        library.export(model, steps=1, calibration_prompts=[], out=tmp_path)
