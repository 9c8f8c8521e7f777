"""This machine's counters through zeus (extra `bench`): NVML, RAPL, Jetson, Apple silicon.

Interface: zeus.device.get_gpus / get_cpus / get_soc, `get_total_energy_consumption` in mJ (zeus 0.16).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cmexport.bench.energy.base import EnergySource, Reading, SourceFacts, monotonic
from cmexport.errors import first_line

_ABSENT = "energy counters are read through zeus, which is missing: pip install 'cmexport[bench]'"


@dataclass(frozen=True)
class ZeusSource:
    """A cumulative counter that zeus reads; `look` gives mJ per rail."""

    facts: SourceFacts
    look: Callable[[], Mapping[str, float]]

    def read(self) -> Reading:
        """Read all rails now."""
        return Reading(monotonic(), dict(self.look()))

    def void(self) -> str:
        """Counters on the die mean the same on any supply."""
        return ""

    def close(self) -> None:
        """Do nothing: zeus ends its own helpers when the interpreter does."""


def open_nvml() -> EnergySource | str:
    """GPUs' total-energy counters (Volta and newer); each GPU is a rail."""
    device = _zeus("zeus.device")
    if isinstance(device, str):
        return device
    try:
        gpus = device.get_gpus()
        count = len(gpus)
    except Exception as error:  # zeus raises a class of its own for every vendor's every trouble
        return f"no NVML: {first_line(error).rstrip('.')}"
    if count == 0:
        return "no GPU with an energy counter"
    rails = tuple(f"gpu{i}" for i in range(count))

    def look() -> Mapping[str, float]:
        return {rail: float(gpus.get_total_energy_consumption(i)) for i, rail in enumerate(rails)}

    return _tried(nvml_facts(rails), look)


def nvml_facts(rails: tuple[str, ...]) -> SourceFacts:
    """NVML's counter: it moves every 20 to 100 ms; a GPU keeps its clocks up for seconds after the last kernel."""
    return SourceFacts("NVML total energy counter", "energy", "A", rails, 0.1, idle_s=5.0, settle_s=5.0)


def open_rapl() -> EnergySource | str:
    """CPU packages and their DRAM; zeus follows the counters' wraps itself."""
    device = _zeus("zeus.device")
    if isinstance(device, str):
        return device
    try:
        cpus = device.get_cpus()
        count = len(cpus)
    except Exception as error:
        return _absent("no RAPL counter (virtual machines rarely have one)", error)

    def look() -> Mapping[str, float]:
        values: dict[str, float] = {}
        for i in range(count):
            found = cpus.get_total_energy_consumption(i)
            values |= {f"package-{i}": float(found.cpu_mj)} if found.cpu_mj is not None else {}
            values |= {f"dram-{i}": float(found.dram_mj)} if found.dram_mj is not None else {}
        return values

    return _discovered("RAPL energy counter", "A", 0.02, look)


def open_soc() -> EnergySource | str:
    """Open a Jetson's INA3221 (polled and integrated by zeus) or Apple silicon's own counters."""
    soc = _zeus("zeus.device.soc")
    if isinstance(soc, str):
        return soc
    try:
        found = soc.get_soc()
    except Exception as error:
        return _absent("no SoC counter (neither a Jetson nor Apple silicon)", error)
    if type(found).__name__ == "AppleSilicon":
        return _discovered("Apple silicon energy counters", "B", 0.1, lambda: _apple_rails(found))
    return _discovered("Jetson INA3221", "A", 0.1, lambda: _jetson_rails(found))


def _apple_rails(soc: Any) -> dict[str, float]:
    """CPU, GPU, its memory, DRAM and Neural Engine; clusters and cores are parts of the CPU's total."""
    found = soc.get_total_energy_consumption()
    names = {"cpu": "cpu_total_mj", "gpu": "gpu_mj", "gpu_sram": "gpu_sram_mj", "dram": "dram_mj", "ane": "ane_mj"}
    values = {rail: getattr(found, field, None) for rail, field in names.items()}
    return {rail: float(value) for rail, value in values.items() if value is not None}


def _jetson_rails(soc: Any) -> dict[str, float]:
    """Return the board's input rail alone where zeus found it, since it feeds the others."""
    found = soc.get_total_energy_consumption()
    total = getattr(found, "total_energy_mj", None)
    if total is not None:
        return {"total": float(total)}
    parts = {"cpu": getattr(found, "cpu_energy_mj", None), "gpu": getattr(found, "gpu_energy_mj", None)}
    return {rail: float(value) for rail, value in parts.items() if value is not None}


def _zeus(module: str) -> Any:
    """Import a module of zeus, or say what is missing. Its loggers speak of daemons nobody here runs."""
    logging.getLogger("zeus").setLevel(logging.ERROR)
    try:
        return importlib.import_module(module)
    except ImportError:
        return _ABSENT


def _absent(said: str, error: Exception) -> str:
    """Say `said` and no more where there is no such hardware; any other error is told as the reason."""
    nothing = type(error).__name__ in ("ZeusCPUInitError", "ZeusSoCInitError")
    return said if nothing else f"{said.partition(' (')[0]}: {first_line(error).rstrip('.')}"


def _discovered(
    name: str, grade: Any, interval_s: float, look: Callable[[], Mapping[str, float]]
) -> EnergySource | str:
    """Make a source whose rails are those that the first look shows."""
    try:
        rails = tuple(look())
    except Exception as error:
        return f"{name}: {first_line(error).rstrip('.')}"
    if not rails:
        return f"{name}: no rail can be read"
    return ZeusSource(SourceFacts(name, "energy", grade, rails, interval_s), look)


def _tried(facts: SourceFacts, look: Callable[[], Mapping[str, float]]) -> EnergySource | str:
    try:
        look()
    except Exception as error:
        return f"{facts.name}: {first_line(error).rstrip('.')}"
    return ZeusSource(facts, look)
