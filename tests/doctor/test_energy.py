"""Energy counters: readable ones are named, unreadable ones give their reason. No hardware needed: /sys is a folder."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from cmexport.doctor import EnergyCounter, energy
from cmexport.doctor.energy import energy_counters


def counter(root: Path, name: str) -> EnergyCounter:
    return {c.name: c for c in energy_counters(root)}[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_rapl_names_its_zones_once(tmp_path: Path):
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "package-1")):
        write(tmp_path / f"sys/class/powercap/{zone}/energy_uj", "262143328850\n")
        write(tmp_path / f"sys/class/powercap/{zone}/name", f"{name}\n")
    assert counter(tmp_path, "RAPL") == EnergyCounter("RAPL", True, "zones: package-0, core, package-1")


def test_rapl_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", "1\n")

    read = Path.read_text

    def refuse(self: Path, *args: str | None, **options: str | None) -> str:
        if "powercap" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **options)  # importing libraries reads metadata

    monkeypatch.setattr(Path, "read_text", refuse)  # the tests may run as root, whom no file mode stops
    found = counter(tmp_path, "RAPL")
    assert not found.readable
    assert "root" in found.detail


def test_rapl_that_prints_nonsense_is_not_readable(tmp_path: Path):
    write(tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj", "\n")
    assert not counter(tmp_path, "RAPL").readable


def test_jetson_rails(tmp_path: Path):
    rails = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    write(rails / "in1_label", "VDD_GPU_SOC\n")
    write(rails / "in2_label", "VDD_CPU_CV\n")
    assert counter(tmp_path, "Jetson INA3221") == EnergyCounter(
        "Jetson INA3221", True, "rails: VDD_GPU_SOC, VDD_CPU_CV"
    )


def test_nothing_here_gives_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(energy, "installed_version", lambda names: None)
    found = energy_counters(tmp_path)
    assert [c.readable for c in found] == [False] * 4
    assert all(c.detail for c in found)
    assert "pip install 'cmexport[bench]'" in counter(tmp_path, "NVML").detail


def nvml(monkeypatch: pytest.MonkeyPatch, **replaced: object) -> list[str]:
    calls: list[str] = []
    module = types.ModuleType("pynvml")
    vars(module).update(
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 123,
        nvmlDeviceGetName=lambda handle: [b"Tesla T4", "RTX 4090"][handle],
    )
    vars(module).update(replaced)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(energy, "installed_version", lambda names: "13.0")
    return calls


def test_nvml_names_its_devices_and_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = nvml(monkeypatch)
    assert counter(tmp_path, "NVML") == EnergyCounter("NVML", True, "Tesla T4; RTX 4090")
    assert calls == ["init", "shutdown"]


def test_nvml_on_a_gpu_without_the_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(handle: int) -> int:
        raise RuntimeError("Not Supported")

    calls = nvml(monkeypatch, nvmlDeviceGetTotalEnergyConsumption=refuse)
    assert counter(tmp_path, "NVML") == EnergyCounter("NVML", False, "Not Supported")
    assert calls == ["init", "shutdown"]


def test_nvml_without_devices_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nvml(monkeypatch, nvmlDeviceGetCount=lambda: 0)
    assert counter(tmp_path, "NVML") == EnergyCounter("NVML", False, "no NVIDIA GPU found")


@pytest.mark.parametrize(("version", "readable"), [("1.1.0", True), (None, False)])
def test_apple_silicon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, readable: bool):
    monkeypatch.setattr(energy.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(energy.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(energy, "installed_version", lambda names: version)
    assert counter(tmp_path, "Apple").readable is readable
