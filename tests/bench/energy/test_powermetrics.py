"""powermetrics' two forms."""

from __future__ import annotations

import contextlib
import plistlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.energy.powermetrics import parse_powermetrics, powermetrics_facts
from cmexport.errors import CheckpointError

# macOS 26 on an M2, `--samplers cpu_power,thermal -i 1000`, shortened.
TEXT = b"""Machine model: Mac14,2
OS version: 25C56
Boot arguments:
Boot time: Thu Sep 10 23:42:17 2026

*** Sampled system activity (Fri Sep 11 13:41:46 2026 -0700) (1002.90ms elapsed) ***

**** Processor usage ****

E-Cluster HW active frequency: 1248 MHz
CPU 0 frequency: 1359 MHz

CPU Power: 823 mW
GPU Power: 26 mW
ANE Power: 323 mW
Combined Power (CPU + GPU + ANE): 1172 mW

**** Thermal pressure ****

Current pressure level: Nominal

*** Sampled system activity (Fri Sep 11 13:41:47 2026 -0700) (1010.09ms elapsed) ***

CPU Power: 205 mW
GPU Power: 19 mW
ANE Power: 0 mW
Combined Power (CPU + GPU + ANE): 224 mW

Current pressure level: Heavy
"""


def plist(cpu=823.0, elapsed=100_300_000, **processor):
    sample = {
        "is_delta": True,
        "elapsed_ns": elapsed,
        "hw_model": "Mac14,2",
        "processor": {"cpu_power": cpu, "gpu_power": 26, "ane_power": 323.5, "combined_power": 1172.5, **processor},
        "thermal_pressure": "Nominal",
    }
    return plistlib.dumps(sample)


def test_text():
    found = parse_powermetrics(TEXT)
    assert [r.values for r in found.readings] == [
        {"cpu": 823.0, "gpu": 26.0, "ane": 323.0},
        {"cpu": 205.0, "gpu": 19.0, "ane": 0.0},
    ]
    assert [r.t_s for r in found.readings] == pytest.approx([1.0029, 2.01299])
    assert found.pressure == "heavy"


def test_combined_power_is_no_rail():
    assert set(powermetrics_facts().rails) == {"cpu", "gpu", "ane"}
    assert powermetrics_facts().grade == "B"


def test_plists_parted_by_nul():
    found = parse_powermetrics(b"\0".join([plist(), plist(205.0), b""]))
    assert [r.values["cpu"] for r in found.readings] == [823.0, 205.0]
    assert found.readings[1].t_s == pytest.approx(0.2006)
    assert found.pressure == "nominal"


def test_a_last_sample_cut_off_by_the_signal():
    whole = b"\0".join([plist(), plist()])
    assert len(parse_powermetrics(whole[:-40]).readings) == 1


def test_an_intel_mac_has_no_such_power():
    with pytest.raises(CheckpointError, match="cpu_power on Apple silicon"):
        parse_powermetrics(plistlib.dumps({"elapsed_ns": 1, "processor": {"package_watts": 3.2}}))


def test_watts():
    assert (
        parse_powermetrics(TEXT.replace(b"CPU Power: 823 mW", b"CPU Power: 0.823 W")).readings[0].values["cpu"] == 823.0
    )


@given(st.binary())
def test_any_bytes(content):
    for whole in (content, b"<?xml" + content, TEXT + content, plist() + b"\0" + content):
        with contextlib.suppress(CheckpointError):
            parse_powermetrics(whole)


@given(st.integers(0, 400), st.integers(1, 60))
def test_damaged_plists(start, length):
    whole = b"\0".join([plist(), plist()])
    with contextlib.suppress(CheckpointError):
        parse_powermetrics(whole[:start] + whole[start + length :])
