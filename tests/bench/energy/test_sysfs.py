"""Files of /sys as machines show them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.energy.base import trace_of
from cmexport.bench.energy.sysfs import battery, find_sources, headline_rails, jetson, number, rapl

POWERCAP = "/sys/class/powercap"


def two_sockets(**changed: str | None) -> dict[str, str | None]:
    """A Xeon with two packages, in the form that Documentation/power/powercap/powercap.rst shows."""
    texts: dict[str, str | None] = {}
    for package, energy in ((0, 262143328850 - 1_000_000), (1, 5_000_000)):
        zone = f"{POWERCAP}/intel-rapl:{package}"
        texts |= {f"{zone}/name": f"package-{package}\n", f"{zone}/energy_uj": f"{energy}\n"}
        texts |= {f"{zone}/max_energy_range_uj": "262143328850\n"}
        texts |= {
            f"{zone}:0/name": "core\n",
            f"{zone}:0/energy_uj": "77\n",
            f"{zone}:0/max_energy_range_uj": "262143328850",
        }
        texts |= {
            f"{zone}:1/name": "dram\n",
            f"{zone}:1/energy_uj": "1000\n",
            f"{zone}:1/max_energy_range_uj": "65712999613",
        }
    return {**texts, **changed}


def test_packages_and_dram_are_added_cores_are_not():
    source = rapl(two_sockets())
    assert source.facts.rails == ("package-0", "dram-0", "package-1", "dram-1")
    assert {rail.name for rail in source.rails} == {*source.facts.rails, "core-0", "core-1"}
    assert source.reading(0.0, two_sockets()).values["package-1"] == pytest.approx(5000.0)
    assert source.facts.grade == "A"


def test_the_counter_wraps():
    """262 143.3 J pass in half an hour at 145 W; max_energy_range_uj says where."""
    source = rapl(two_sockets())
    before = source.reading(0.0, two_sockets())
    after = source.reading(1.0, two_sockets(**{f"{POWERCAP}/intel-rapl:0/energy_uj": "500000"}))
    made = trace_of(source.facts, [before, after])
    assert made.mj["package-0"] == pytest.approx((0.0, 1500.0))


def test_psys_is_a_rail_but_not_added():
    zone = f"{POWERCAP}/intel-rapl:2"
    texts = two_sockets(**{f"{zone}/name": "psys", f"{zone}/energy_uj": "9", f"{zone}/max_energy_range_uj": "99"})
    source = rapl(texts)
    assert "psys" not in source.facts.rails
    assert "psys" in {rail.name for rail in source.rails}


def test_root_only_counters_say_what_to_do():
    """Since Linux 5.10 energy_uj is mode 0400 (CVE-2020-8694): reading fails, names stay readable."""
    texts = {path: None if path.endswith("energy_uj") else text for path, text in two_sockets().items()}
    assert rapl(texts).startswith("RAPL is readable by root only: sudo chmod")


def test_no_rapl():
    assert rapl({}) == "no RAPL counters"
    assert find_sources({}) == ((), "no INA3221; no RAPL counters; no battery gauge")


ORIN_NX = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon4"


def orin_nx() -> dict[str, str | None]:
    """NVIDIA's developer guide, "Jetson Orin NX Series": one INA3221 at 0x40, mV and mA."""
    texts: dict[str, str | None] = {}
    for channel, (label, mv, ma) in enumerate(
        (("VDD_IN", 4928, 1208), ("VDD_CPU_GPU_CV", 4928, 304), ("VDD_SOC", 4920, 352)), 1
    ):
        texts |= {
            f"{ORIN_NX}/in{channel}_label": f"{label}\n",
            f"{ORIN_NX}/in{channel}_input": f"{mv}\n",
            f"{ORIN_NX}/curr{channel}_input": f"{ma}\n",
        }
    # Documentation/hwmon/ina3221.rst: channel 7 is the sum of the shunt voltages, no rail.
    return {**texts, f"{ORIN_NX}/in7_label": "sum of shunt voltages\n", f"{ORIN_NX}/in7_input": "9\n"}


def test_the_input_rail_already_has_the_others_in_it():
    source = jetson(orin_nx())
    assert source.facts.rails == ("VDD_IN",)
    values = source.reading(0.0, orin_nx()).values
    assert values["VDD_IN"] == pytest.approx(4928 * 1208 * 1e-3)
    assert set(values) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}


def test_agx_orin_has_no_input_rail():
    """VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0 add up; the memory's rail is fed from the last."""
    rails = ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    assert headline_rails(rails) == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    assert headline_rails(["VDD_GPU_SOC", "VDDQ_VDD2_1V8AO"]) == ("VDD_GPU_SOC", "VDDQ_VDD2_1V8AO")


def test_older_kernels_name_power_directly():
    """Jetson Nano, L4T 32: rail_name_0 POM_5V_IN, in_power0_input in mW."""
    folder = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    texts = {
        f"{folder}/rail_name_0": "POM_5V_IN\n",
        f"{folder}/in_power0_input": "1856\n",
        f"{folder}/rail_name_1": "POM_5V_GPU\n",
        f"{folder}/in_power1_input": "0\n",
        f"{folder}/rail_name_2": "POM_5V_CPU\n",
        f"{folder}/in_power2_input": "327\n",
    }
    source = jetson(texts)
    assert source.facts.rails == ("POM_5V_IN",)
    assert source.reading(0.0, texts).values == {"POM_5V_IN": 1856.0, "POM_5V_GPU": 0.0, "POM_5V_CPU": 327.0}


def test_a_rail_that_stops_answering_is_left_out():
    source = jetson(orin_nx())
    reading = source.reading(0.0, {**orin_nx(), f"{ORIN_NX}/curr1_input": None})
    assert "VDD_IN" not in reading.values
    assert trace_of(source.facts, [reading, reading]) == "Jetson INA3221: rail VDD_IN could not be read"


def test_rails_that_cannot_be_read_at_all():
    assert jetson({p: None if p.endswith("_input") else t for p, t in orin_nx().items()}) == (
        "the INA3221's rails can't be read"
    )


@pytest.mark.parametrize(
    ("files", "mw"),
    [
        ({"power_now": "8500000"}, 8500.0),
        ({"current_now": "700000", "voltage_now": "12000000"}, 8400.0),
        ({"current_now": "-700000", "voltage_now": "12000000"}, 8400.0),
    ],
)
def test_a_laptops_battery(files, mw):
    folder = "/sys/class/power_supply/BAT0"
    texts = {f"{folder}/status": "Discharging\n", **{f"{folder}/{k}": v for k, v in files.items()}}
    source = battery(texts)
    assert source.facts.grade == "C"
    assert source.reading(0.0, texts).values["BAT0"] == pytest.approx(mw)
    assert source.void(texts) == ""
    assert "charging" in source.void({**texts, f"{folder}/status": "Charging\n"})


@given(
    st.dictionaries(
        st.sampled_from([*two_sockets(), *orin_nx(), "/sys/class/power_supply/BAT0/status"]),
        st.none() | st.text(max_size=12),
    )
)
def test_rubbish_never_raises(texts):
    sources, refused = find_sources(texts)
    for source in sources:
        source.reading(0.0, texts)
        source.void(texts)
    assert sources or refused


@given(st.text(max_size=30))
def test_numbers(text):
    found = number(text)
    assert found is None or found == float(text)


def test_no_numbers():
    assert [number(t) for t in (None, "", "nan", "1e9", "0x10", "1_000", "-5\n")] == [None] * 6 + [-5.0]
