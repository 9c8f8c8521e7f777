from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from cmexport.parity.ladder import ExactComparison, ParityReport, PreviewPictures, RungResult
from cmexport.parity.metrics import PictureDifference, compare
from cmexport.parity.table import notes, parity_table, verdict

REFERENCE = np.zeros((8, 3, 8, 8))


def difference(error: float) -> PictureDifference:
    return compare(REFERENCE, REFERENCE + error)


def report(*errors: float, gate: float = 60.0, **changes) -> ParityReport:
    rungs = tuple(
        RungResult(f"rung [{i}]", found := difference(error), found.passes(gate), 0.1) for i, error in enumerate(errors)
    )
    base = ParityReport(
        reference="PyTorch [float32]",
        gate_db=gate,
        applied_gate_db=gate,
        pictures_asked=8,
        pictures=8,
        seed=5,
        output="float",
        reference_non_finite=0,
        reference_seconds=1.0,
        rungs=rungs,
        exact=None,
        preview=PreviewPictures(REFERENCE, REFERENCE),
    )
    return dataclasses.replace(base, **changes)


def shown(what: ParityReport) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(parity_table(what))
    return console.export_text()


def test_table_shows_every_figure_and_names_with_brackets() -> None:
    text = shown(report(2e-4, 0.02))
    assert "Parity with PyTorch [float32] over 8 pictures (seeds 5 to 12)" in text
    good, bad = (line for line in text.splitlines() if "rung [" in line)
    assert [cell.strip() for cell in good.strip("│").split("│")] == [
        *("rung [0]", "80.0", "80.0", "2.0e-04", "0", "0", "0", "0", "60", "passed")
    ]
    # 0.02 is 2.55 levels on top of 127.5, which rounds to 128: 130.05 becomes 130, two levels.
    assert [cell.strip() for cell in bad.strip("│").split("│")] == [
        *("rung [1]", "40.0", "40.0", "2.0e-02", "100.000", "100.000", "0", "0", "60", "FAILED")
    ]


def test_identical_and_broken_pictures_have_words_instead_of_figures() -> None:
    assert "identical" in shown(report(0.0))
    text = shown(report(np.nan))
    assert " - " in text
    assert " 1536 " in text


def test_a_tiny_share_is_not_shown_as_zero() -> None:
    tiny = RungResult("r", dataclasses.replace(difference(1e-3), off_by_1=1e-7), True, 0.1)
    assert "<0.001" in shown(report(rungs=(tiny,)))


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (report(2e-4), "Passed: over 8 pictures, rung [0] draws the reference's pictures at mean 80.0 dB, gate 60 dB."),
        (report(0.0), "Passed: over 8 pictures, rung [0] draws exactly the reference's pictures."),
        (report(0.0, 0.02), "Failed: rung [1] is the first rung outside the gate, at mean 40.0 dB instead of 60 dB."),
        (report(np.nan), "Failed: rung [0] is the first rung outside the gate, with 1536 NaN or Inf numbers."),
        (
            report(np.nan, reference_non_finite=7),
            "Failed: the reference itself (PyTorch [float32]) gives 7 NaN or Inf numbers in 8 pictures.",
        ),
    ],
)
def test_verdict_is_one_sentence(what: ParityReport, sentence: str) -> None:
    assert verdict(what) == sentence


def test_notes_say_what_a_reader_must_know() -> None:
    assert notes(report(0.0)) == []
    assert "caption" not in shown(report(0.0))
    short = report(2e-4, pictures_asked=64)
    assert notes(short) == ["8 of 64 pictures were run, to keep within the time budget."]
    assert "8 of 64 pictures" in shown(short)
    (in_bytes,) = notes(report(2e-4, output="uint8", applied_gate_db=55.04))
    assert "60 dB for floats is 55.0 dB" in in_bytes
    exact = ExactComparison(4, difference(2e-7), difference(2e-4))
    assert notes(report(2e-4, exact=exact)) == [
        "Against float64 (4 pictures): PyTorch [float32] mean 140.0 dB, max 2.0e-07; "
        "rung [0] mean 80.0 dB, max 2.0e-04."
    ]
