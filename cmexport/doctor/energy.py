"""Which hardware energy counters a benchmark could read here. `detail` always says why not."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from pathlib import Path

from cmexport.doctor.backends import installed_version, remedy_for
from cmexport.doctor.findings import EnergyCounter


def energy_counters(root: Path = Path("/")) -> tuple[EnergyCounter, ...]:
    """Which hardware energy counters a benchmark could read here: RAPL, NVML, Jetson's INA3221, Apple's.

    Args:
        root: where /sys lies, for tests.
    """
    return (_rapl(root), _nvml(), _jetson(root), _apple_energy())


def _rapl(root: Path) -> EnergyCounter:
    counters = sorted(root.glob("sys/class/powercap/intel-rapl:*/energy_uj"))
    if not counters:
        return EnergyCounter("RAPL", False, "this kernel or virtual machine shows no powercap zones")
    zones, refused = [], []
    for counter in counters:
        try:
            int(counter.read_text())
            zones.append((counter.parent / "name").read_text().strip())
        except PermissionError:
            refused.append(counter.parent.name)
        except (OSError, ValueError):
            continue
    if zones:
        return EnergyCounter("RAPL", True, "zones: " + ", ".join(dict.fromkeys(zones)))
    if refused:
        return EnergyCounter("RAPL", False, "present, readable by root only (or through zeus's daemon)")
    return EnergyCounter("RAPL", False, "zones present, but none can be read")


def _nvml() -> EnergyCounter:
    if installed_version(("nvidia-ml-py",)) is None:
        return EnergyCounter("NVML", False, f"nvidia-ml-py not installed: {remedy_for('bench')}")
    try:
        devices = "; ".join(_nvml_devices())
    except Exception as error:  # pynvml builds its error classes at run time
        return EnergyCounter("NVML", False, str(error) or type(error).__name__)
    return EnergyCounter("NVML", bool(devices), devices or "no NVIDIA GPU found")


def _nvml_devices() -> Iterator[str]:
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # refused before Volta
            name = nvml.nvmlDeviceGetName(handle)
            yield name.decode() if isinstance(name, bytes) else str(name)
    finally:
        nvml.nvmlShutdown()


def _jetson(root: Path) -> EnergyCounter:
    rails = []
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/in*_label")):
        try:
            rails.append(label.read_text().strip())
        except OSError:
            continue
    if rails:
        return EnergyCounter("Jetson INA3221", True, "rails: " + ", ".join(rails))
    return EnergyCounter("Jetson INA3221", False, "no such sensor here")


def _apple_energy() -> EnergyCounter:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return EnergyCounter("Apple", False, "not an Apple silicon Mac")
    if installed_version(("zeus-apple-silicon",)) is None:
        return EnergyCounter("Apple", False, "pip install 'zeus[apple]'")
    return EnergyCounter("Apple", True, "CPU, GPU and Neural Engine, vendor's estimate")
