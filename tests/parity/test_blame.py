"""Blame: statistics of pairs against numpy's own arithmetic, and who is named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cmexport.parity.blame import (
    ROUNDING_DB,
    BlameCollector,
    OperationBlame,
    OperationPair,
    first_over_budget,
    keep_list,
)


def pair(name, reference, candidate, operands=(), location=0, half=True, keepable=True):
    arrays = [(np.asarray(x),) if not isinstance(x, tuple) else x for x in (reference, candidate)]
    return OperationPair(name, "conv", location, tuple(operands), half, keepable, *arrays)


def reports(*pairs):
    collector = BlameCollector()
    for one in pairs:
        collector.add(one)
    return collector.reports()


def blamed(name, snr_db, operand_db=math.inf, location=0, **fields):
    """A report with these figures; everything else is in order."""
    given = {
        "operands": (),
        "half": True,
        "keepable": True,
        "elements": 10,
        "largest": 1.0,
        "beyond": 0,
        "overflows": 0,
        "subnormal": 0.0,
        **fields,
    }
    return OperationBlame(name=name, type="conv", location=location, snr_db=snr_db, operand_db=operand_db, **given)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_signal_to_noise_is_of_all_inputs_and_results_together():
    a, b, c = normal(1, 3, 50), 10 * normal(2, 40), normal(3, 7)
    worse = [x + 0.01 * normal(9, *x.shape) for x in (a, b, c)]
    (report,) = reports(pair("x", (a, b), (worse[0], worse[1])), pair("x", (c, c), (worse[2], c)))
    signal = sum(float((x.astype(float) ** 2).sum()) for x in (a, b, c, c))
    noise = sum(float(((x.astype(float) - y) ** 2).sum()) for x, y in zip((a, b, c), worse, strict=True))
    assert report.snr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-9)
    assert report.elements == 150 + 40 + 14
    assert report.largest == pytest.approx(np.abs(b).max())
    assert (report.overflows, report.beyond, report.subnormal) == (0, 0, 0.0)


def test_one_rounding_to_half_precision_is_no_drop():
    x = normal(1, 100_000)
    (report,) = reports(pair("x", x, x.astype(np.float16)))
    assert ROUNDING_DB < report.snr_db < ROUNDING_DB + 1.5
    assert report.drop_db == 0.0


def test_results_of_whole_numbers_and_of_nothing():
    found = reports(
        pair("same", np.arange(4), np.arange(4)),
        pair("one off", np.array([3, 4]), np.array([3, 5])),
        pair("empty", np.zeros((0, 3)), np.zeros((0, 3))),
    )
    assert [r.snr_db for r in found] == [math.inf, pytest.approx(10 * math.log10(25)), math.inf]


def test_overflows_are_counted_once_each():
    reference = np.array([1.0, 65504.0, 65505.0, -1e6, np.inf, 3.0, np.nan])
    candidate = np.array([1.0, 65504.0, 65504.0, -np.inf, np.inf, np.nan, np.nan])
    half, wide = reports(pair("half", reference, candidate), pair("wide", reference, candidate, half=False))
    # 65505 and -1e6 can't be held; 3.0 became NaN; where the reference itself is infinite, nothing was lost.
    assert (half.beyond, half.overflows) == (2, 3)
    # In float32 large numbers are fine.
    assert (wide.beyond, wide.overflows) == (2, 2)
    assert half.largest == 1e6
    assert half.snr_db == -math.inf


def test_subnormal_numbers_are_counted_in_the_reference():
    reference = np.array([0.0, 2.0**-14, 2.0**-15, -(2.0**-20), 1.0])
    (report,) = reports(pair("x", reference, np.zeros(5)))
    assert report.subnormal == 2 / 5


def test_noise_on_nothing_but_zeros_is_finite():
    (report,) = reports(pair("x", np.zeros(3), np.full(3, 1e-3)))
    assert -math.inf < report.snr_db < -1000


def test_an_operation_that_passes_an_error_on_is_not_blamed():
    x = normal(1, 1000)
    noisy = x + 0.01 * normal(2, 1000)
    found = reports(
        pair("exact", x, x),
        pair("maker", 2 * x, 2 * noisy, ["exact"], 1),
        pair("passer", 6 * x, 6 * noisy, ["maker"], 2),
        pair("worse", x, noisy + 0.1 * normal(3, 1000), ["exact", "passer"], 3),
    )
    exact, maker, passer, worse = found
    assert exact.drop_db == 0.0
    assert maker.drop_db == pytest.approx(ROUNDING_DB - 40, abs=1)
    assert passer.drop_db == pytest.approx(0, abs=1e-3)
    assert passer.added == pytest.approx(0, abs=1e-9)
    assert worse.operand_db == passer.snr_db
    assert worse.drop_db == pytest.approx(20, abs=1)
    assert worse.added == pytest.approx(0.01, rel=0.2)


def test_only_the_first_to_overflow_is_blamed_for_nan():
    good, bad = np.ones(4), np.array([1, np.inf, 1, 1])
    found = reports(
        pair("a", good, good),
        pair("b", good, bad, ["a"], 1),
        pair("c", good, bad * np.nan, ["b"], 2),
        pair("d", good, good, ["c"], 3),
    )
    assert [r.overflows_itself for r in found] == [False, True, False, False]
    assert [r.drop_db for r in found] == [0.0, math.inf, 0.0, 0.0]
    assert first_over_budget(found, 40.0).name == "b"


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="x: shapes"):
        reports(pair("x", np.zeros(3), np.zeros((3, 1))))


def test_the_first_operation_over_its_budget_in_program_order():
    found = (blamed("a", 60.0), blamed("b", 39.0, 60.0, 1), blamed("c", 10.0, 39.0, 2))
    assert first_over_budget(found, 40.0).name == "b"
    assert first_over_budget(found, 20.0).name == "c"
    assert first_over_budget(found, 5.0) is None
    assert first_over_budget((), 40.0) is None
    large = blamed("large", 70.0, beyond=1, overflows=1)
    assert first_over_budget((large, *found), 5.0).name == "large"


def test_overflowing_operations_are_kept_with_those_that_read_them_and_no_others():
    found = (
        blamed("before", 30.0),
        blamed("makes", -math.inf, 30.0, 1, beyond=2, overflows=2),
        blamed("cast", -math.inf, -math.inf, 2, beyond=2, overflows=2, keepable=False, operands=("makes",)),
        blamed("reads", -math.inf, -math.inf, 3, overflows=9, operands=("cast",)),
        blamed("after", -math.inf, -math.inf, 4, overflows=9, operands=("reads",)),
    )
    assert keep_list(found, 60.0) == ("makes", "reads")


def test_a_norm_that_overflows_inside_is_found_by_its_noise():
    """Squares above 65504 make a variance infinite and a result of zeros: no NaN, and nothing of the signal left."""
    x = normal(1, 100)
    found = reports(pair("conv", x, x.astype(np.float16)), pair("norm", x, np.zeros(100), ["conv"], 1))
    assert not any(r.overflows_itself for r in found)
    assert keep_list(found, 40.0) == ("norm",)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        # Noise added: a 1e-5, b 9.9e-4, c 1e-3 (so the result has 27 dB), d nothing.
        (26.0, ()),
        (29.9, ("c",)),
        (40.0, ("b", "c")),
        (70.0, ("a", "b", "c")),
    ],
)
def test_the_noisiest_are_kept_until_the_rest_is_within_the_budget(budget, kept):
    found = (
        blamed("a", 50.0, math.inf, 0),
        blamed("b", 30.0, 50.0, 1),
        blamed("c", 10 * math.log10(1 / 2e-3), 30.0, 2),
        blamed("d", 10 * math.log10(1 / 2e-3), 10 * math.log10(1 / 2e-3), 3),
    )
    assert keep_list(found, budget) == kept
    # The order in which equals come does not depend on anything but the program.
    assert keep_list(found, budget) == keep_list(tuple(found), budget)


def test_equals_are_kept_in_program_order():
    found = tuple(blamed(name, 40.0, math.inf, i) for i, name in enumerate("abcd"))
    assert keep_list(found, 43.1) == ("a", "b", "c")


def test_nothing_is_kept_if_that_would_not_do():
    found = (blamed("quantize", 30.0, keepable=False), blamed("conv", 29.9, 30.0, 1))
    assert keep_list(found, 40.0) == ()
    assert keep_list((), 40.0) == ()
