"""How pictures follow prompts, measured on plain arithmetic: f(z, c) = tanh(z) / 2 + s c, where s is known."""

from __future__ import annotations

import numpy as np
import pytest

from cmexport.errors import CheckpointError
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.ladder import Rung, climb, draw_truth, first_of
from cmexport.parity.sensitivity import prompt_pairs
from cmexport.parity.table import notes, verdict
from cmexport.signature import Choice, Input, Signature, Tokens, known

WORDS = Tokens(50, 48, 49, sentences=((1, 2), (3,), (4, 5, 6)))
TOKENS = Input("tokens", (1, 7), "int64", WORDS, ("N", "T"))
LISTED = Input("prompt", (1,), "int64", Choice(5, worded=True), ("N",))


def border(words, batch=1):
    shape = (batch, 1, 4, 4)
    return Signature((known.noise(shape), *(i.with_batch(batch) for i in words)), known.finished(shape))


class Reacts:
    """Adds `strength` times a number that the prompt stands for; counts its runs."""

    def __init__(self, strength, runs, dtype=np.float32, noise=0.0):
        self.strength, self.runs, self.dtype, self.noise = strength, runs, dtype, noise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, arrays):
        self.runs.append(1)
        words = next((a for name, a in arrays.items() if name != "noise"), np.zeros(len(arrays["noise"])))
        said = words.reshape(len(words), -1).sum(1).astype(np.float32).reshape(-1, 1, 1, 1)
        image = np.tanh(arrays["noise"]) / 2 + np.float32(self.strength) * said + np.float32(self.noise)
        return {"image": image.astype(self.dtype)}


def rung(name, strength, runs=None, **fields):
    return Rung(name, lambda: Reacts(strength, [] if runs is None else runs, **fields))


REFERENCE = rung("torch", 0.001)


@pytest.mark.parametrize(
    ("factor", "gate", "passes"),
    [
        (1.0, (0.95, 1.05), True),
        (0.96, (0.95, 1.05), True),
        (0.92, (0.95, 1.05), False),
        (0.92, (0.9, 1.1), True),
        (0.5, (0.9, 1.1), False),
        (0.0, (0.9, 1.1), False),
        (1.2, (0.9, 1.1), False),
        (-1.0, (0.9, 1.1), True),
    ],
)
@pytest.mark.parametrize("words", [TOKENS, LISTED], ids=["tokens", "closed list"])
def test_the_ratio_is_that_of_the_formulas(words, factor, gate, passes):
    inputs = draw_inputs(border([words]), 20)
    report = climb(REFERENCE, [rung("file", 0.001 * factor)], inputs, 10.0, text_gate=gate)
    found = report.sensitivity
    assert found.pairs == 16
    assert found.ratio == pytest.approx(abs(factor), abs=1e-3)
    assert found.least == pytest.approx(found.most, abs=2e-3)
    assert found.cosine == pytest.approx(np.sign(factor), abs=1e-3)
    assert found.passed == passes == report.passed
    # The pictures alone would do.
    assert report.rungs[0].difference.passes(10.0)


def test_a_failure_says_what_the_pictures_do_not_do():
    inputs = draw_inputs(border([TOKENS]), 16)
    report = climb(REFERENCE, [rung("file", 5e-5)], inputs, 10.0)
    assert verdict(report) == (
        "Failed: file is the first rung outside the gate, its pictures hardly follow the prompt "
        "(text sensitivity 0.05, gate 0.95 to 1.05)."
    )
    both = verdict(climb(REFERENCE, [rung("file", 7e-4, noise=0.3)], inputs, 60.0))
    assert "dB instead of 60 dB; its pictures follow the prompt too weakly (text sensitivity 0.700" in both
    passed = climb(REFERENCE, [rung("file", 0.001)], inputs, 60.0)
    assert any(
        n.startswith("Over 16 pairs of prompts: text sensitivity 1.000, gate 0.95 to 1.05") for n in notes(passed)
    )


def test_pairs_have_the_same_noise_and_another_prompt():
    inputs = draw_inputs(border([TOKENS], batch=2), 8)
    pairs = prompt_pairs(inputs)
    assert pairs.inputs.pictures == 16
    assert len(set(pairs.key)) == 8
    for (run, _), second in zip(pairs.key, pairs.inputs, strict=True):
        first = inputs[run]
        np.testing.assert_array_equal(first["noise"], second["noise"])
        assert (first["tokens"] != second["tokens"]).any(axis=1).all()


def test_only_graphs_with_several_prompts_pay():
    for words in (
        [],
        [Input("label", (1,), "int64", Choice(5), ("N",))],
        [Input("p", (1,), "int64", Choice(1, worded=True), ("N",))],
    ):
        runs = []
        inputs = draw_inputs(border(words), 20)
        report = climb(REFERENCE, [rung("file", 0.0, runs)], inputs, 1.0)
        assert report.sensitivity is None
        assert len(runs) == 20


def test_a_reference_that_ignores_its_prompt_is_an_error_of_the_checkpoint():
    with pytest.raises(CheckpointError, match="ignores its prompt: 16 pairs"):
        climb(rung("torch", 0.0), [rung("file", 0.0)], draw_inputs(border([TOKENS]), 16), 60.0)


def test_nan_with_one_prompt_fails():
    class Breaks(Reacts):
        def __call__(self, arrays):
            found = super().__call__(arrays)
            if len(self.runs) > 16:
                found["image"][0, 0, 0, 0] = np.nan
            return found

    report = climb(REFERENCE, [Rung("file", lambda: Breaks(0.001, []))], draw_inputs(border([TOKENS]), 16), 60.0)
    assert report.sensitivity.ratio is None
    assert not report.passed


def test_bytes_are_compared_with_bytes():
    def bytes_of(strength):
        class Bytes(Reacts):
            def __call__(self, arrays):
                image = super().__call__(arrays)["image"]
                levels = np.rint((image + 1) * 127.5).clip(0, 255).astype(np.uint8)
                return {"image": levels.transpose(0, 2, 3, 1)}

        return Rung("bytes", lambda: Bytes(strength, []))

    inputs = draw_inputs(border([TOKENS]), 16)
    report = climb(bytes_of(0.001), [rung("float", 0.001), bytes_of(0.0005)], inputs, 10.0)
    assert report.rungs[0].sensitivity.ratio == 1.0
    assert report.rungs[1].sensitivity.ratio == pytest.approx(0.5, abs=0.05)


def test_pictures_drawn_ahead_are_not_drawn_again():
    inputs, runs = draw_inputs(border([TOKENS]), 20), []
    reference = rung("torch", 0.001, runs)
    truth = draw_truth(reference, inputs, None, 0)
    assert len(runs) == 36
    usual = climb(REFERENCE, [rung("file", 0.0008)], inputs, 10.0)
    assert climb(reference, [rung("file", 0.0008)], inputs, 10.0, drawn=truth).sensitivity == usual.sensitivity
    assert len(runs) == 36
    # Of fewer pictures than pairs, other ones would be paired.
    runs.clear()
    few = draw_truth(reference, first_of(inputs, 8), None, 0)
    assert len(runs) == 8
    assert climb(reference, [rung("file", 0.0008)], inputs, 10.0, drawn=few).sensitivity == usual.sensitivity
    assert len(runs) == 36


def test_a_rung_that_settles_early_is_not_asked_but_the_last_is():
    inputs, first, last = draw_inputs(border([TOKENS]), 40), [], []
    rungs = [rung("plain", 0.001, first), rung("ships", 0.001, last)]
    report = climb(REFERENCE, rungs, inputs, 60.0, settle_early=True)
    assert (len(first), len(last)) == (16, 56)
    assert report.rungs[0].sensitivity is None
    assert report.rungs[1].sensitivity.passed
