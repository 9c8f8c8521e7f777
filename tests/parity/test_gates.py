from __future__ import annotations

import numpy as np
import pytest

from cmexport.errors import UsageError
from cmexport.parity.gates import FLOOR_DB, GATES_DB, Yardstick, byte_gate, float_gate, gate_for, gate_of, text_gate
from cmexport.parity.metrics import PictureDifference, as_bytes, compare


def test_gates_are_the_published_ones() -> None:
    assert dict(GATES_DB) == {
        **{"fp32": 100, "fp16": 60, "bf16": 48, "w8": 52, "a16w8": 52},
        **{"int8": 38, "fp8": 38, "w6": 42, "w4": 30},
    }
    assert gate_for("fp16") == 60.0


def test_unknown_precision_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"fp6.*fp32, fp16"):
        gate_for("fp6")


@pytest.mark.parametrize("gate_db", sorted(set(GATES_DB.values())))
def test_byte_gate_is_what_noise_at_the_gate_scores_after_rounding(gate_db: float) -> None:
    """By experiment: pictures with Gaussian errors at exactly the float gate, rounded to bytes and compared."""
    rng = np.random.default_rng(1)
    reference = rng.uniform(-0.8, 0.8, (20, 3, 64, 64))
    candidate = reference + rng.standard_normal(reference.shape) * 2 * 10 ** (-gate_db / 20)
    # At 100 dB one byte in 490 flips, 25 a picture: the mean over 20 pictures scatters by 4.3/sqrt(25*20) = 0.2 dB.
    assert compare(as_bytes(reference), as_bytes(candidate)).mean_db == pytest.approx(byte_gate(gate_db), abs=0.5)


def test_byte_gate_never_exceeds_the_float_gate_and_grows_with_it() -> None:
    values = [byte_gate(gate) for gate in range(20, 141, 5)]
    assert all(value <= gate for value, gate in zip(values, range(20, 141, 5), strict=True))
    assert values == sorted(values)


@pytest.mark.parametrize("gate_db", [20.0, 45.6, 60.0, 100.0])
def test_the_float_gate_of_a_byte_gate_is_where_it_came_from(gate_db: float) -> None:
    assert float_gate(byte_gate(gate_db)) == pytest.approx(gate_db, abs=1e-3)


def off(error: float) -> PictureDifference:
    reference = np.zeros((4, 1, 8, 8))
    return compare(reference, reference + error)


@pytest.mark.parametrize(
    ("absolute", "margin", "error", "gate", "origin"),
    [
        (52.0, 0.0, 2e-2, 40.0, "plain"),
        (52.0, 0.0, 2e-3, 52.0, ""),
        (60.0, 20.0, 0.1 * 2, 40.0, "plain + 20 dB"),
        (60.0, 20.0, 2e-2, 60.0, ""),
        (100.0, -6.0, 2e-5, 94.0, "plain - 6 dB"),
        (30.0, 0.0, 0.6, FLOOR_DB, "the floor; plain is 10.5 dB"),
        (30.0, 0.0, np.nan, FLOOR_DB, "the floor; plain gives NaN or Inf"),
        (52.0, 0.0, 0.0, 52.0, ""),
    ],
)
def test_a_measured_gate_is_the_plain_figure_between_the_floor_and_the_absolute_gate(
    absolute: float, margin: float, error: float, gate: float, origin: str
) -> None:
    found = Yardstick("plain", None, margin).gate(absolute, off(error), in_bytes=False)
    assert found == (pytest.approx(gate, abs=1e-6), origin)


def test_a_recorded_gate_comes_before_the_precisions_own() -> None:
    assert gate_of("w8", {}) == 52.0
    assert gate_of("w8", {"gate_db": 45.6, "gate_origin": "plain w8"}) == 45.6
    assert gate_of("mixed", {"budget_db": 47}) == 47.0


def test_text_gates_are_the_published_ones() -> None:
    assert {text_gate(p) for p in ("fp32", "fp16", "bf16")} == {(0.95, 1.05)}
    assert {text_gate(p) for p in ("w8", "a16w8", "int8", "fp8", "w6", "w4", "mixed")} == {(0.9, 1.1)}
