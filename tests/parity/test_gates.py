from __future__ import annotations

import numpy as np
import pytest

from cmexport.errors import UsageError
from cmexport.parity.gates import GATES_DB, byte_gate, gate_for
from cmexport.parity.metrics import as_bytes, compare


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
