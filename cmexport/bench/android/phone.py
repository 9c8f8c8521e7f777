"""What a phone says about itself, read before and after the runs.

Sources: AOSP build properties (ro.soc.* since Android 12), Settings.Global (airplane_mode_on, low_power),
PowerManagerService's and ThermalManagerService's dumps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cmexport.bench.android.shell import AdbError, AdbShell
from cmexport.bench.energy.android import BatteryState, parse_dumpsys_battery, parse_thermalservice
from cmexport.bench.schema import BenchRecord, DeviceRecord, PowerRecord, ThermalRecord

_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*)\]\s*$", re.MULTILINE)
_TEMPERATURE = re.compile(r"Temperature\{mValue=([-\d.]+), mType=(-?\d+), mName=([^,]*), mStatus=\d+\}")
_MARK = "--cmexport--"
_QUESTIONS = {
    "properties": "getprop",
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
    "power": "dumpsys power",
    "airplane": "settings get global airplane_mode_on",
    "saver": "settings get global low_power",
    "memory": "cat /proc/meminfo",
    # The last one's exit code is that of all.
    "cores": "nproc || true",
}
# android.hardware.thermal.TemperatureType: CPU 0, GPU 1, NPU 9, TPU 10, SOC 13.
_PROCESSOR_TYPES = ("0", "1", "9", "10", "13")


@dataclass(frozen=True)
class PhoneState:
    """A phone at one moment; None for what it doesn't tell.

    Attributes:
        properties: of `getprop`.
        battery: of `dumpsys battery`.
        thermal: the system's word for the heat: "none", "light", ...
        celsius: the warmest of the processor's sensors.
        airplane_mode: whether radios are off.
        low_power_mode: whether the battery saver is on.
        screen_on: whether the phone is awake.
        memory_bytes: installed memory, without what the kernel keeps for itself.
        cores: logical cores.
    """

    properties: dict[str, str]
    battery: BatteryState | None
    thermal: str | None
    celsius: float | None
    airplane_mode: bool | None
    low_power_mode: bool | None
    screen_on: bool | None
    memory_bytes: int | None
    cores: int | None

    @property
    def model(self) -> str | None:
        """The phone's maker and model; None where it tells neither."""
        words = [self.properties.get(f"ro.product.{name}", "") for name in ("manufacturer", "model")]
        return " ".join(word for word in words if word) or None

    @property
    def chip(self) -> str | None:
        """The chip by its maker's name; before Android 12 only the board's."""
        words = [self.properties.get(f"ro.soc.{name}", "") for name in ("manufacturer", "model")]
        known = " ".join(word for word in words if word and word.lower() != "unknown")
        return known or self.properties.get("ro.board.platform") or None

    @property
    def charger(self) -> str | None:
        """What powers it: "usb", "ac", "wireless", "dock", several with "and", or "none"."""
        if self.battery is None:
            return None
        return " and ".join(self.battery.powered_by) or "none"


def read_phone(shell: AdbShell) -> PhoneState:
    """Read the phone's state: battery, heat, screen, memory, build.

    Raises:
        AdbError: it is gone.
    """
    # One question: each is a process and a connection, 50 ms and more.
    said = shell.ask(f"; echo {_MARK}; ".join(_QUESTIONS.values())).split(f"{_MARK}\n")
    answers = dict(zip(_QUESTIONS, [*said, *[""] * len(_QUESTIONS)], strict=False))
    awake = re.search(r"^\s*mWakefulness=(\w+)", answers["power"], re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", answers["memory"], re.MULTILINE)
    cores = answers["cores"].strip()
    return PhoneState(
        properties=dict(_PROPERTY.findall(answers["properties"])),
        battery=parse_dumpsys_battery(answers["battery"]),
        thermal=parse_thermalservice(answers["thermal"]),
        celsius=processor_celsius(answers["thermal"]),
        airplane_mode=_switch(answers["airplane"]),
        low_power_mode=_switch(answers["saver"]),
        screen_on=None if awake is None else awake[1] == "Awake",
        memory_bytes=int(memory[1]) * 1024 if memory and int(memory[1]) else None,
        cores=int(cores) if cores.isdecimal() and int(cores) else None,
    )


def processor_celsius(text: str) -> float | None:
    """Find the warmest processor sensor of `dumpsys thermalservice`, as the hardware says now, not as it was cached."""
    now = text.partition("Current temperatures from HAL:")[2].partition("Current cooling devices")[0]
    found = [
        float(value) for value, kind, _ in _TEMPERATURE.findall(now) if kind in _PROCESSOR_TYPES and _is_number(value)
    ]
    # A sensor that is switched off says 0 or far below.
    plausible = [value for value in found if 0.0 < value < 150.0]
    return max(plausible) if plausible else None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _switch(text: str) -> bool | None:
    """Read a setting of 0 or 1; phones that never had it set answer "null"."""
    return {"0": False, "1": True}.get(text.strip())


def with_phone(record: BenchRecord, before: PhoneState, after: PhoneState | None) -> BenchRecord:
    """Return a record with what the phone said; `after` is None when it was gone by then."""
    flags = list(record.validity.flags)
    for flag in _flags(before, after):
        if flag not in flags:
            flags.append(flag)
    validity = record.validity.model_copy(update={"flags": tuple(flags)})
    return record.model_copy(
        update={
            "device": phone_record(record.device, before),
            "thermal": _thermal(record.thermal, before, after),
            "validity": validity,
        }
    )


def _flags(before: PhoneState, after: PhoneState | None) -> list[str]:
    battery = before.battery
    flags = ["charging"] if battery is not None and battery.powered_by else []
    flags += ["battery_faked"] if battery is not None and battery.faked else []
    flags += ["on_battery"] if before.charger == "none" else []
    flags += ["low_power_mode"] if before.low_power_mode else []
    hot = [state.thermal for state in (before, after) if state is not None and state.thermal not in (None, "none")]
    return flags + (["throttled"] if hot else [])


def phone_record(record: DeviceRecord, phone: PhoneState) -> DeviceRecord:
    """Return a device's record with the phone's own facts in place of what a process on it can see."""
    why = "the phone does not tell"
    power = PowerRecord.known(
        {"": why, "power_mode": "Android has none but the battery saver"},
        charger=phone.charger,
        battery_percent=phone.battery.percent if phone.battery else None,
        low_power_mode=phone.low_power_mode,
        airplane_mode=phone.airplane_mode,
        screen_on=phone.screen_on,
    )
    properties = phone.properties
    version = properties.get("ro.build.version.release")
    facts: dict[str, Any] = {**record.facts, "build": properties.get("ro.build.fingerprint") or None}
    if phone.battery is not None:
        facts |= {"battery_celsius": phone.battery.celsius, "battery_mv": phone.battery.voltage_mv}
    return DeviceRecord.known(
        {"": why, "accelerator": record.reasons.get("accelerator", "none took part")},
        name=record.name,
        kind=record.kind,
        model=phone.model or record.model,
        processor=phone.chip or record.processor,
        cores=phone.cores or record.cores,
        memory_bytes=phone.memory_bytes or record.memory_bytes,
        os=f"Android {version} {properties.get('ro.product.cpu.abi', '')}".strip() if version else record.os,
        accelerator=record.accelerator,
        features=record.features,
        power=power,
        facts=facts,
    )


def _thermal(record: ThermalRecord, before: PhoneState, after: PhoneState | None) -> ThermalRecord:
    gone = "the connection was lost" if after is None else "the phone does not tell"
    seen = [
        value for value in (before.celsius, after.celsius if after else None, record.celsius_max) if value is not None
    ]
    words = [state.thermal for state in (before, after) if state is not None and state.thermal is not None]
    throttled = True if any(word != "none" for word in words) else record.throttled
    return ThermalRecord.known(
        {
            "": gone,
            "celsius_start": "the phone does not tell",
            "status_start": "the phone does not tell",
            "throttled": "the phone was asked before and after, not in between",
        },
        celsius_start=before.celsius,
        celsius_end=after.celsius if after else None,
        celsius_max=max(seen) if seen else None,
        status_start=before.thermal,
        status_end=after.thermal if after else None,
        throttled=throttled,
    )


def read_phone_again(shell: AdbShell) -> PhoneState | None:
    """`read_phone`, None when the phone is gone."""
    try:
        return read_phone(shell)
    except AdbError:
        return None
