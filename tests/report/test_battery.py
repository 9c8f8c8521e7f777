"""Pictures per charge against the formula in exact fractions."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.schema import EnergyRecord
from cmexport.errors import UsageError
from cmexport.report.battery import BATTERIES, Battery, battery_asked, battery_of, charge

positive = st.floats(0.01, 1e6)


def energy(net, interval=None):
    return EnergyRecord.known(
        "none", grade="A", grade_rule="A", source="s", mj_per_image_net=net, ci95_mj_per_image=interval
    )


@given(wh=st.floats(0.1, 100.0), net=positive, half=st.floats(0.0, 0.9), tolerance=st.floats(0.0, 0.2))
def test_pictures_per_charge_and_their_band(wh, net, half, tolerance):
    battery = Battery("b", "b", wh, tolerance, "s")
    found = charge(battery, energy(net, (net * (1 - half), net * (1 + half))))
    exact = Fraction(wh) * 3600 * 1000 / Fraction(net)
    assert found.per_charge == pytest.approx(float(exact), rel=1e-12)
    assert found.per_percent == pytest.approx(float(exact) / 100, rel=1e-12)
    assert found.low == pytest.approx(float(exact) * (1 - tolerance) / (1 + half), rel=1e-9)
    assert found.high == pytest.approx(float(exact) * (1 + tolerance) / (1 - half), rel=1e-9)


def test_an_interval_that_reaches_zero_has_no_upper_end_and_none_has_no_band():
    battery = Battery("b", "b", 10.0, 0.0, "s")
    assert charge(battery, energy(5.0, (-1.0, 11.0))).high == math.inf
    found = charge(battery, energy(5.0))
    assert (found.low, found.high) == (None, None)
    assert charge(battery, EnergyRecord.known("none", grade="D", grade_rule="D")) is None


def test_devices_are_known_by_what_they_call_themselves():
    assert battery_of("Pixel 8").name == "Pixel 8"
    assert battery_of("sm-s928b").name == "Galaxy S24 Ultra"
    assert battery_of("iPhone16,1").name == "iPhone 15 Pro"
    assert battery_of("iPhone16,11") is None
    assert battery_of("Pixel 80") is None
    assert battery_of(None) is None


NAMES = ("Pixel 7", "Pixel 8", "Pixel 8 Pro", "SM-S926B", "SM-S928U1", "iPhone15,4", "iPhone15,5", "iPhone16,1")
NAMES += ("iPhone16,2", "iPad16,3", "iPad16,6", "Mac14,2", "Mac15,12", "Mac16,1")


def test_each_device_has_one_battery_and_each_battery_a_device():
    matched = [[b.name for b in BATTERIES if re.fullmatch(b.models, name)] for name in NAMES]
    assert [len(found) for found in matched] == [1] * len(NAMES)
    assert {found[0] for found in matched} == {b.name for b in BATTERIES}
    for battery in BATTERIES:
        assert 10.0 < battery.wh < 110.0
        assert 0 < battery.tolerance < 0.05
        assert battery.source


def test_what_may_be_asked_for():
    assert battery_asked("Pixel 8") is battery_of("Pixel 8")
    assert battery_asked("galaxy s24 ultra").name == "Galaxy S24 Ultra"
    assert battery_asked("12.5").wh == battery_asked("12.5 Wh").wh == 12.5
    for text in ("", "toaster", "nan", "inf", "-3", "0", "1e9"):
        with pytest.raises(UsageError, match="--battery"):
            battery_asked(text)
