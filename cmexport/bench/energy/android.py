"""What an Android phone says about its battery: `dumpsys battery` and the gauge's files, with sign and unit made plain.

Android documents microamperes with + for charging (BatteryManager.BATTERY_PROPERTY_CURRENT_NOW); the kernel documents
microamperes and leaves the sign to the driver (sysfs-class-power). Vendors differ in both: some gauges give
milliamperes, some + for discharging. A single value can't tell; a series with its state of charging can.

Sources: AOSP services/core/java/com/android/server/BatteryService.java (dump), BatteryManager.java (states),
Documentation/ABI/testing/sysfs-class-power.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cmexport.bench.energy.base import Reading, SourceFacts
from cmexport.bench.energy.sysfs import Texts, number

GAUGE = "/sys/class/power_supply/battery"
GAUGE_FILES = tuple(f"{GAUGE}/{name}" for name in ("current_now", "voltage_now", "charge_counter", "status"))
"""Files worth watching while runs are timed."""

# A phone that computes draws 100 to 5000 mA. As microamperes, numbers below 20 000 would be under 20 mA: less than a
# sleeping phone's. As milliamperes, numbers of 20 000 and more would be 20 A and more.
_MILLI_BELOW = 20_000.0
_LEAST = 20.0
# Gauges refresh every 0.25 to 30 s; 10 s is what the slow ones in common phones do.
_INTERVAL_S = 10.0

State = Literal["unknown", "charging", "discharging", "not charging", "full"]
_STATES: dict[str, State] = {
    "1": "unknown",
    "2": "charging",
    "3": "discharging",
    "4": "not charging",
    "5": "full",
}


@dataclass(frozen=True)
class BatteryState:
    """`dumpsys battery`, in plain units; None for what this phone leaves out.

    Attributes:
        powered_by: chargers that are connected, of "ac", "usb", "wireless", "dock".
        state: of charging.
        percent: level over scale, 0 to 100.
        voltage_mv: of the battery.
        celsius: of the battery.
        charge_counter_uah: charge left.
        faked: whether `dumpsys battery set ...` or `unplug` froze these values: the phone only pretends.
    """

    powered_by: tuple[str, ...]
    state: State
    percent: float | None
    voltage_mv: float | None
    celsius: float | None
    charge_counter_uah: float | None
    faked: bool

    def void(self) -> str:
        """Why an energy figure from the gauge would mean nothing now; "" if it may be had."""
        if self.faked:
            return "dumpsys battery only pretends to be unplugged: adb shell dumpsys battery reset, then use Wi-Fi"
        if self.powered_by:
            return f"the phone is powered by {' and '.join(self.powered_by)}: use wireless adb and unplug it"
        if self.state != "discharging":
            return f"the battery is {self.state}, not discharging"
        return ""


def parse_dumpsys_battery(text: str) -> BatteryState | None:
    """Read the output of `dumpsys battery`; None where it is something else (an error, another service)."""
    if "Battery Service state" not in text:
        return None
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.strip().partition(":")
        # Whole names: "Max charging voltage" must not pass for "voltage".
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    level, scale = number(fields.get("level")), number(fields.get("scale")) or 100.0
    percent = None if level is None or not 0 <= level <= scale else 100.0 * level / scale
    volts, tenths = number(fields.get("voltage")), number(fields.get("temperature"))
    return BatteryState(
        powered_by=tuple(
            kind for kind in ("ac", "usb", "wireless", "dock") if fields.get(f"{kind} powered", "").lower() == "true"
        ),
        state=_STATES.get(fields.get("status", ""), "unknown"),
        percent=percent,
        # Some phones say 0 mV: not known. Some say volts or microvolts in place of millivolts.
        voltage_mv=_millivolts(volts),
        celsius=None if tenths is None else tenths / 10.0,
        charge_counter_uah=number(fields.get("charge counter")),
        faked="UPDATES STOPPED" in text,
    )


def _millivolts(value: float | None) -> float | None:
    """Read a battery's voltage as mV, from mV, uV or V; None if it is none (one cell has 2.5 to 4.6 V, two 9.2)."""
    if value is not None:
        for scale in (1.0, 1e-3, 1e3):
            if 2500.0 <= value * scale <= 9500.0:
                return value * scale
    return None


def discharge_ma(values: Sequence[float], state: State) -> tuple[float, ...] | str:
    """Turn a series of `current_now` into mA drawn from the battery, + for discharging; or say why that can't be done.

    The unit is chosen by the median's size (see above), the sign by the phone's own word that it is discharging.
    Moments of the other sign stay negative: a gauge that noise pushes over zero is not rectified.
    """
    if not values:
        return "the gauge gave no current"
    if state != "discharging":
        return f"the battery is {state}, not discharging: its current says nothing about the load"
    middle = median(values)
    size = median(abs(v) for v in values)
    if size < _LEAST or middle == 0:
        return f"the gauge's current (median {middle:.3g}) is too small for mA and for uA: it is not updated"
    scale = 1.0 if size < _MILLI_BELOW else 1e-3
    sign = 1.0 if middle > 0 else -1.0
    return tuple(sign * scale * value for value in values)


def gauge_readings(looks: Sequence[tuple[float, Texts]]) -> tuple[tuple[Reading, ...], str]:
    """Power from a series of looks at the gauge's files, and why there is none ("" if there is).

    Args:
        looks: (t_s, texts of `GAUGE_FILES`), as a runner's `raw` lines give them.
    """
    found = [
        (t_s, current, voltage, (texts.get(f"{GAUGE}/status") or "").strip().lower())
        for t_s, texts in looks
        if (current := number(texts.get(f"{GAUGE}/current_now"))) is not None
        and (voltage := _millivolts(number(texts.get(f"{GAUGE}/voltage_now")))) is not None
    ]
    if not found:
        return (), "current_now and voltage_now of the battery can't be read from here"
    states = {state for *_, state in found}
    if states != {"discharging"}:
        return (), f"the battery was {' and '.join(sorted(states - {'discharging'})) or 'in an unknown state'}"
    currents = discharge_ma([current for _, current, _, _ in found], "discharging")
    if isinstance(currents, str):
        return (), currents
    # mA times mV are uW.
    readings = [Reading(t_s, {"battery": ma * mv * 1e-3}) for (t_s, _, mv, _), ma in zip(found, currents, strict=True)]
    return tuple(readings), ""


def gauge_facts() -> SourceFacts:
    """Return the gauge as a source of power, grade C."""
    return SourceFacts("Android battery gauge", "power", "C", ("battery",), _INTERVAL_S, idle_s=60.0)


_THERMAL_STATES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")


def parse_thermalservice(text: str) -> str | None:
    """Android's word for the heat in `dumpsys thermalservice` (ThrottlingSeverity, 0 to 6); None if it isn't there."""
    found = re.search(r"^\s*Thermal Status:\s*(\d+)\s*$", text, re.MULTILINE)
    return _THERMAL_STATES[int(found[1])] if found and int(found[1]) < len(_THERMAL_STATES) else None
