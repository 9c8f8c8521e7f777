"""Numbers keep their digits, names lose what would reorder a page."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.report.text import clean, grouped, interval, number, ratio, tick, times


@given(st.floats(-1e308, 1e308), st.integers(2, 6))
def test_a_number_reads_back_to_its_digits(value, digits):
    shown = number(value, digits).replace("\N{NARROW NO-BREAK SPACE}", "")
    assert math.isclose(float(shown), value, rel_tol=0.51 * 10.0 ** (1 - digits) + 1e-9, abs_tol=1e-300)
    assert len(shown) < 24


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not measured"),
        (0.0, "0"),
        (12345.678, "12\u202f346"),
        (0.05, "0.05000"),
        (99.999, "100.0"),
        (1e300, "1.000e+300"),
        (math.inf, "∞"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


def test_ticks_drop_zeros_that_say_nothing():
    assert [tick(v) for v in (0.0, 0.2, 1.0, 75.0, 100.0, 1000.0, 2.5)] == [
        *("0", "0.2", "1", "75", "100", "1\u202f000", "2.5")
    ]


@given(st.text(), st.integers(2, 50))
def test_a_name_is_one_short_line_without_control_or_direction_marks(text, longest):
    shown = clean(text, longest)
    assert len(shown) <= longest
    assert not any(c in shown for c in "\n\r\t\x00\x1b\u202a\u202b\u202d\u202e\u2066\u2067\u2069\u200b\ufeff")
    assert shown == shown.strip()


def test_ratios_exist_only_between_figures():
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is ratio(2.0, None) is ratio(2.0, 0.0) is None
    assert times(None) == "not measured"
    assert interval(1.0, None) == "not measured"


def test_a_remark_is_said_once():
    assert grouped([("a", "x"), ("b", "y"), ("c", "x")]) == ["a; c: x", "b: y"]
