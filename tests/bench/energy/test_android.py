"""Phones' words, and their ways with signs and units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.energy.android import (
    GAUGE,
    discharge_ma,
    gauge_facts,
    gauge_readings,
    parse_dumpsys_battery,
    parse_thermalservice,
)
from cmexport.bench.energy.base import trace_of

# The form that BatteryService.dumpInternal prints (AOSP, android-14), values of a phone on Wi-Fi.
UNPLUGGED = """Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Dock powered: false
  Max charging current: 0
  Max charging voltage: 0
  Charge counter: 2848000
  status: 3
  health: 2
  present: true
  level: 54
  scale: 100
  voltage: 3906
  temperature: 220
  technology: Li-ion
  Charging state: 0
  Charging policy: 0
"""


def test_a_phone_on_its_battery():
    state = parse_dumpsys_battery(UNPLUGGED)
    assert state.powered_by == ()
    assert state.state == "discharging"
    assert (state.percent, state.voltage_mv, state.celsius) == (54.0, 3906.0, 22.0)
    assert state.charge_counter_uah == 2848000.0
    assert state.void() == ""


def test_max_charging_voltage_is_not_the_voltage():
    state = parse_dumpsys_battery(UNPLUGGED.replace("Max charging voltage: 0", "Max charging voltage: 5000000"))
    assert state.voltage_mv == 3906.0


def test_on_the_cable():
    text = UNPLUGGED.replace("USB powered: false", "USB powered: true").replace("status: 3", "status: 2")
    state = parse_dumpsys_battery(text)
    assert state.powered_by == ("usb",)
    assert state.state == "charging"
    assert "powered by usb" in state.void()


def test_a_full_battery_on_no_cable_still_says_nothing():
    assert "full" in parse_dumpsys_battery(UNPLUGGED.replace("status: 3", "status: 5")).void()


def test_dumpsys_battery_unplug_only_pretends():
    """BatteryService prints this line after `dumpsys battery unplug` or `set`."""
    head = "Current Battery Service state:\n  (UPDATES STOPPED -- use 'reset' to restart)\n"
    state = parse_dumpsys_battery(UNPLUGGED.replace("Current Battery Service state:\n", head))
    assert state.faked
    assert "only pretends" in state.void()


def test_voltage_zero_is_unknown_and_scales_differ():
    assert parse_dumpsys_battery(UNPLUGGED.replace("voltage: 3906", "voltage: 0")).voltage_mv is None
    assert parse_dumpsys_battery(UNPLUGGED.replace("voltage: 3906", "voltage: 3906000")).voltage_mv == 3906.0
    assert parse_dumpsys_battery(UNPLUGGED.replace("scale: 100", "scale: 200")).percent == 27.0


def test_fields_that_are_missing_are_none():
    state = parse_dumpsys_battery("Current Battery Service state:\n  status: 9\n")
    assert state.state == "unknown"
    assert (state.percent, state.voltage_mv, state.celsius, state.charge_counter_uah) == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "Can't find service: battery\n", "error: device unauthorized."])
def test_other_answers(text):
    assert parse_dumpsys_battery(text) is None


@given(st.text())
def test_any_text(text):
    parse_dumpsys_battery(text)
    parse_dumpsys_battery("Current Battery Service state:\n" + text)
    parse_thermalservice(text)


@given(
    st.lists(st.floats(150, 4000), min_size=3, max_size=30),
    st.sampled_from([1.0, -1.0]),
    st.sampled_from([1.0, 1000.0]),
)
def test_every_sign_and_unit_gives_the_same_current(ma, sign, unit):
    """mA or uA, + or - for discharging: the four ways that phones have."""
    assert discharge_ma([sign * unit * value for value in ma], "discharging") == pytest.approx(ma)


def test_a_moment_of_the_other_sign_is_not_rectified():
    assert discharge_ma([-500.0, -450.0, 30.0], "discharging") == (500.0, 450.0, -30.0)


def test_a_gauge_that_is_stuck():
    assert "not updated" in discharge_ma([0.0, 0.0], "discharging")
    assert "not updated" in discharge_ma([1.0, -1.0, 1.0], "discharging")


def test_charging_says_nothing_about_the_load():
    assert "charging" in discharge_ma([500000.0], "charging")
    assert discharge_ma([], "discharging") == "the gauge gave no current"


def looks(current: str, voltage: str = "3900000", status: str = "Discharging", count: int = 3):
    return [
        (10.0 * i, {f"{GAUGE}/current_now": current, f"{GAUGE}/voltage_now": voltage, f"{GAUGE}/status": status})
        for i in range(count)
    ]


@pytest.mark.parametrize("current", ["-500000", "500000", "500", "-500"])
def test_power_from_the_gauge(current):
    readings, why = gauge_readings(looks(current))
    assert why == ""
    assert [r.values["battery"] for r in readings] == pytest.approx([1950.0] * 3)
    assert trace_of(gauge_facts(), readings).mj["battery"][-1] == pytest.approx(39000.0)


def test_shells_that_may_not_read_the_gauge():
    """Since Android 8 the shell gets "Permission denied" on many phones; the runner then tells null."""
    assert "can't be read" in gauge_readings([(0.0, {f"{GAUGE}/current_now": None})])[1]


def test_plugged_in_half_way():
    mixed = [*looks("-500000"), *looks("700000", status="Charging")]
    assert gauge_readings(mixed) == ((), "the battery was charging")


# dumpsys thermalservice, AOSP ThermalManagerService.dump, first lines.
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
	killed: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=41.2, mType=3, mName=skin, mStatus=2}
"""


def test_thermal_status():
    assert parse_thermalservice(THERMAL) == "moderate"
    assert parse_thermalservice(THERMAL.replace("Status: 2", "Status: 0")) == "none"
    assert parse_thermalservice("Thermal Status: 99") is None
    assert parse_thermalservice("Can't find service: thermalservice") is None
