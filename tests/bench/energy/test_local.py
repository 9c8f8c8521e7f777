"""Which source is chosen, and the thread that reads it."""

from __future__ import annotations

import itertools
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmexport.bench.energy.base import Reading, SourceFacts, monotonic, trace_of
from cmexport.bench.energy.local import Sampler, open_battery, open_energy
from cmexport.bench.energy.zeus_sources import open_nvml, open_rapl, open_soc
from cmexport.errors import BackendError, UsageError


class Counter:
    def __init__(self, name="rapl", limit=10**9):
        self.facts = SourceFacts(name, "energy", "A", ("x",), 0.02)
        self._count = itertools.count()
        self._limit = limit

    def read(self):
        value = next(self._count)
        if value >= self._limit:
            raise OSError("gone")
        return Reading(monotonic(), {"x": float(value)})

    def void(self):
        return ""

    def close(self):
        pass


def sources(**found):
    return {name: lambda name=name: found.get(name, f"no {name}") for name in ("nvml", "soc", "rapl", "battery")}


def test_auto_takes_the_gpus_counter_only_for_the_gpu():
    here = sources(nvml=Counter("nvml"), rapl=Counter("rapl"))
    assert open_energy("auto", "cuda", here).facts.name == "nvml"
    assert open_energy("auto", "cpu", here).facts.name == "rapl"


def test_nothing_says_why():
    assert open_energy("auto", "cpu", sources()) == "no energy counter here: no soc; no rapl; no battery"
    assert open_energy("auto", "cuda", sources(rapl=Counter())) == "no energy counter here: no nvml"
    assert open_energy("off", "cpu", sources(rapl=Counter())) == "switched off with --energy off"


def test_names():
    assert open_energy("rapl", "cpu", sources(rapl=Counter())).facts.name == "rapl"
    with pytest.raises(BackendError, match="--energy rapl: no rapl"):
        open_energy("rapl", "cpu", sources())
    with pytest.raises(UsageError, match="known are auto, off, nvml"):
        open_energy("wattmeter", "cpu", sources())


def test_the_sampler_reads_until_stopped():
    sampler = Sampler(Counter())
    sampler.start()
    while len(sampler.readings) < 5:
        time.sleep(0.01)
    sampler.stop()
    count = len(sampler.readings)
    assert trace_of(Counter().facts, sampler.readings).mj["x"][-1] == count - 1
    assert not sampler.is_alive()


def test_a_source_that_goes_away_ends_the_sampler():
    sampler = Sampler(Counter(limit=3))
    sampler.start()
    sampler.join(timeout=10)
    assert [r.values["x"] for r in sampler.readings] == [0.0, 1.0, 2.0]
    sampler.stop()


def test_this_machines_battery_from_files(tmp_path: Path):
    folder = tmp_path / "sys/class/power_supply/BAT1"
    folder.mkdir(parents=True)
    (folder / "status").write_text("Discharging\n")
    (folder / "power_now").write_text("7000000\n")
    source = open_battery(tmp_path)
    assert source.read().values == {"BAT1": 7000.0}
    assert source.void() == ""
    (folder / "status").write_text("Full\n")
    assert "full" in source.void()
    assert open_battery(tmp_path / "nothing") == "no battery gauge"


@pytest.mark.parametrize("opener", [open_nvml, open_rapl, open_soc])
def test_without_zeus_the_sentence_names_the_extra(opener, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "zeus"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "zeus", None)
    assert opener() == "energy counters are read through zeus, which is missing: pip install 'cmexport[bench]'"


def fake_zeus(monkeypatch: pytest.MonkeyPatch, **functions):
    """A stand-in with the calls of zeus 0.16 that are made: no such counters are in a virtual machine."""
    device = SimpleNamespace(**functions)
    soc = SimpleNamespace(**functions)
    monkeypatch.setitem(sys.modules, "zeus.device", device)
    monkeypatch.setitem(sys.modules, "zeus.device.soc", soc)


def test_nvml(monkeypatch):
    class Gpus:
        def __len__(self):
            return 2

        def get_total_energy_consumption(self, index):
            return 1000 * (index + 1)

    fake_zeus(monkeypatch, get_gpus=Gpus)
    source = open_nvml()
    assert source.read().values == {"gpu0": 1000.0, "gpu1": 2000.0}
    assert source.facts.rails == ("gpu0", "gpu1")
    assert source.facts.window_s == pytest.approx(6.0)


def test_rapl(monkeypatch):
    class Cpus:
        def __len__(self):
            return 1

        def get_total_energy_consumption(self, index):
            return SimpleNamespace(cpu_mj=5.0, dram_mj=None)

    fake_zeus(monkeypatch, get_cpus=Cpus)
    assert open_rapl().facts.rails == ("package-0",)


def test_apple_counts_clusters_once(monkeypatch):
    class AppleSilicon:
        def get_total_energy_consumption(self):
            return SimpleNamespace(
                cpu_total_mj=10, efficiency_cores_mj=[1, 2], gpu_mj=4, gpu_sram_mj=None, dram_mj=3, ane_mj=2
            )

    fake_zeus(monkeypatch, get_soc=AppleSilicon)
    source = open_soc()
    assert source.facts.grade == "B"
    assert source.read().values == {"cpu": 10.0, "gpu": 4.0, "dram": 3.0, "ane": 2.0}


def test_a_jetsons_total_stands_alone(monkeypatch):
    class Jetson:
        def get_total_energy_consumption(self):
            return SimpleNamespace(cpu_energy_mj=3.0, gpu_energy_mj=4.0, total_energy_mj=12.0)

    fake_zeus(monkeypatch, get_soc=Jetson)
    assert open_soc().read().values == {"total": 12.0}


def test_refusals_are_sentences(monkeypatch):
    def refuse():
        raise RuntimeError("NVML Shared Library Not Found\nmore")

    fake_zeus(monkeypatch, get_gpus=refuse, get_cpus=refuse, get_soc=refuse)
    assert open_nvml() == "no NVML: NVML Shared Library Not Found"
    assert open_rapl() == "no RAPL counter: NVML Shared Library Not Found"
    assert open_soc() == "no SoC counter: NVML Shared Library Not Found"


def test_hardware_that_is_not_there_is_said_in_our_words(monkeypatch):
    cpu, soc = import_module("zeus.device.cpu.common"), import_module("zeus.device.soc.common")

    def refuse(kind):
        def get():
            raise kind("RAPL unvailable Failed to initialize CPU management library.")

        return get

    fake_zeus(monkeypatch, get_cpus=refuse(cpu.ZeusCPUInitError), get_soc=refuse(soc.ZeusSoCInitError))
    assert open_rapl() == "no RAPL counter (virtual machines rarely have one)"
    assert open_soc() == "no SoC counter (neither a Jetson nor Apple silicon)"
