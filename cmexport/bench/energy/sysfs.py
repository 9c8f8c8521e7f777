"""Counters that Linux shows as files: RAPL, Jetson's INA3221, batteries. Pure functions from texts to rails.

The same functions serve this machine and one behind ssh, whose runner tells the texts of the files it is to watch.

Sources: Documentation/power/powercap (energy_uj, max_energy_range_uj), Documentation/hwmon/ina3221 (in*_input in mV,
curr*_input in mA), the older iio driver of NVIDIA's kernels (rail_name_*, in_power*_input in mW),
Documentation/ABI/testing/sysfs-class-power (current_now in uA, voltage_now in uV, power_now in uW).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from cmexport.bench.energy.base import Reading, SourceFacts

PATTERNS = (
    "/sys/class/powercap/intel-rapl:*/name",
    "/sys/class/powercap/intel-rapl:*/energy_uj",
    "/sys/class/powercap/intel-rapl:*/max_energy_range_uj",
    "/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label",
    "/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_input",
    "/sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/curr*_input",
    "/sys/bus/i2c/drivers/ina3221*/*/iio:device*/rail_name_*",
    "/sys/bus/i2c/drivers/ina3221*/*/iio:device*/in_power*_input",
    "/sys/class/power_supply/BAT*/status",
    "/sys/class/power_supply/BAT*/power_now",
    "/sys/class/power_supply/BAT*/current_now",
    "/sys/class/power_supply/BAT*/voltage_now",
)
"""What a machine is asked for to find its sources."""

Texts = Mapping[str, str | None]

# These rails feed all the others of their board (Jetson Nano, TX2, Xavier NX, Orin NX and Nano).
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN", "SYS_VIN", "VDD_SYS_IN")
# AGX Orin has no input rail; its memory is fed from VIN_SYS_5V0 (NVIDIA's developer guide: VDDQ is part of it).
_CONTAINED = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0", "VDD2_1V8AO": "VIN_SYS_5V0"}
_UNUSED = ("NC", "")


@dataclass(frozen=True)
class _Rail:
    """How one rail is read: the product of its files' numbers, times `scale`."""

    name: str
    files: tuple[str, ...]
    scale: float


@dataclass(frozen=True)
class SysfsSource:
    """A source whose rails are files.

    Attributes:
        facts: what it is.
        rails: how each rail is read.
        status: file that says whether a battery is discharging, "" for sources that are no battery.
    """

    facts: SourceFacts
    rails: tuple[_Rail, ...]
    status: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Files to read each time."""
        wanted = [file for rail in self.rails for file in rail.files] + ([self.status] if self.status else [])
        return tuple(dict.fromkeys(wanted))

    def reading(self, t_s: float, texts: Texts) -> Reading:
        """Read the rails that can be read in these texts; cumulative mJ or momentary mW as `facts.kind` says."""
        values = {}
        for rail in self.rails:
            numbers = [number(texts.get(file)) for file in rail.files]
            product = rail.scale
            for found in numbers:
                product = product * found if found is not None else float("nan")
            if product == product:
                # What a battery gives is drawn, whatever sign its driver has for it (`void` refuses a charging one).
                values[rail.name] = abs(product) if self.status else product
        return Reading(t_s, values)

    def void(self, texts: Texts) -> str:
        """Why the readings mean nothing: a battery that is not being discharged measures its charger."""
        status = (texts.get(self.status) or "").strip() if self.status else "Discharging"
        return "" if status == "Discharging" else f"the battery is {status.lower() or 'in an unknown state'}; unplug it"


def number(text: str | None) -> float | None:
    """Read the number a file of /sys holds; None for an error text, nothing or rubbish."""
    if text is None or not re.fullmatch(r"\s*[+-]?\d{1,20}\s*", text):
        return None
    return float(text)


def find_sources(texts: Texts) -> tuple[tuple[SysfsSource, ...], str]:
    """Find sources that these files make, the best first, and why others are left out ("" if none is)."""
    found = [jetson(texts), rapl(texts), battery(texts)]
    sources = tuple(source for source in found if isinstance(source, SysfsSource))
    refusals = [source for source in found if isinstance(source, str)]
    return sources, "; ".join(dict.fromkeys(r for r in refusals if r))


def rapl(texts: Texts) -> SysfsSource | str:
    """RAPL's packages and DRAM. "psys", where the firmware has it, is left out: its calibration is the board maker's.

    Cores and uncore are parts of their package; DRAM is not (Intel SDM vol. 3, "RAPL domains").
    """
    zones = {path.rpartition("/")[0]: text.strip() for path, text in texts.items() if _is_rapl_name(path) and text}
    if not zones:
        return "no RAPL counters"
    rails, headline, wraps, refused = [], [], {}, False
    for zone, name in sorted(zones.items()):
        package = zone.rpartition("/")[2].split(":")[1]
        label = name if name.startswith(("package", "psys")) else f"{name}-{package}"
        if number(texts.get(f"{zone}/energy_uj")) is None:
            refused = True
            continue
        rails.append(_Rail(label, (f"{zone}/energy_uj",), 1e-3))
        wrap = number(texts.get(f"{zone}/max_energy_range_uj"))
        if wrap is not None:
            wraps[label] = wrap * 1e-3
        if name.startswith("package") or name == "dram":
            headline.append(label)
    if not headline:
        return (
            "RAPL is readable by root only: sudo chmod a+r /sys/class/powercap/intel-rapl*/*/energy_uj"
            if refused
            else ("RAPL shows no package")
        )
    # The counter moves every millisecond; it is read less often, and each reading then finds it moved.
    return SysfsSource(
        SourceFacts("RAPL energy counter", "energy", "A", tuple(headline), 0.02, wraps_mj=wraps), tuple(rails)
    )


def _is_rapl_name(path: str) -> bool:
    return re.fullmatch(r"/sys/class/powercap/intel-rapl:[0-9:]+/name", path) is not None


def jetson(texts: Texts) -> SysfsSource | str:
    """Jetson's power monitors. A rail that feeds the others is the figure alone; summing all counts energy twice."""
    rails = []
    for path, text in sorted(texts.items()):
        place = PurePosixPath(path)
        if label := re.fullmatch(r"in(\d+)_label", place.name):
            files = (f"{place.parent}/in{label[1]}_input", f"{place.parent}/curr{label[1]}_input")
            # mV times mA are uW.
            rails.append(_Rail((text or "").strip(), files, 1e-3))
        elif label := re.fullmatch(r"rail_name_(\d+)", place.name):
            rails.append(_Rail((text or "").strip(), (f"{place.parent}/in_power{label[1]}_input",), 1.0))
    rails = [
        r for r in rails if "ina3221" in r.files[0] and r.name not in _UNUSED and "sum of shunt" not in r.name.lower()
    ]
    readable = [r for r in rails if all(number(texts.get(file)) is not None for file in r.files)]
    if not readable:
        return "the INA3221's rails can't be read" if rails else "no INA3221"
    return SysfsSource(
        SourceFacts("Jetson INA3221", "power", "A", headline_rails([r.name for r in readable]), 0.1), tuple(readable)
    )


def headline_rails(names: list[str]) -> tuple[str, ...]:
    """Choose those of a Jetson's rails that add up to the module without counting anything twice."""
    for rail in _INPUT_RAILS:
        if rail in names:
            return (rail,)
    return tuple(name for name in names if _CONTAINED.get(name) not in names)


def battery(texts: Texts) -> SysfsSource | str:
    """Return a laptop's battery: power_now, or current_now times voltage_now."""
    for path in sorted(texts):
        if not re.fullmatch(r"/sys/class/power_supply/BAT[^/]*/status", path):
            continue
        folder = path.rpartition("/")[0]
        name = folder.rpartition("/")[2]
        rail: _Rail | None = None
        if number(texts.get(f"{folder}/power_now")) is not None:
            rail = _Rail(name, (f"{folder}/power_now",), 1e-3)
        elif number(texts.get(f"{folder}/current_now")) is not None:
            # uA times uV are 1e-12 W.
            rail = _Rail(name, (f"{folder}/current_now", f"{folder}/voltage_now"), 1e-9)
        if rail is not None:
            kind: Literal["power"] = "power"
            # Embedded controllers refresh it every 1 to 30 s.
            return SysfsSource(SourceFacts("battery gauge", kind, "C", (name,), 4.0, 60.0), (rail,), path)
    return "no battery gauge"
