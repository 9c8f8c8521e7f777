"""Power rails of Perfetto traces, in text form."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.energy.base import trace_of
from cmexport.bench.energy.perfetto import parse_power_rails, rails_facts
from cmexport.errors import CheckpointError

# The form of perfetto's own test (test/trace_processor/diff_tests/parser/power), rails of a Pixel.
TRACE = """
packet {
  power_rails {
    rail_descriptor { index: 4 rail_name: "S3M_VDD_CPUCL1" subsys_name: "cpu" sampling_rate: 1023 }
    rail_descriptor { rail_name: "S2S_VDD_G3D" subsys_name: "gpu" sampling_rate: 1022 }
  }
}
packet {
  timestamp: 3000003
  power_rails {
    energy_data { index: 4 timestamp_ms: 3000 energy: 333000 }
    energy_data { timestamp_ms: 3000 energy: 1000 }
  }
}
packet {
  timestamp: 3250003
  power_rails {
    energy_data { index: 4 timestamp_ms: 3250 energy: 666000 }
    energy_data { timestamp_ms: 3250 energy: 2000 }
    energy_data { index: 9 timestamp_ms: 3250 energy: 5 }
  }
}
"""


def test_rails_by_name_in_millijoules():
    readings = parse_power_rails(TRACE)
    assert [r.t_s for r in readings] == [3.0, 3.25]
    assert readings[0].values == pytest.approx({"cpu/S3M_VDD_CPUCL1": 333.0, "gpu/S2S_VDD_G3D": 1.0})
    assert readings[1].values["rail 9"] == pytest.approx(0.005)


def test_only_rails_that_are_always_there_are_added():
    readings = parse_power_rails(TRACE)
    facts = rails_facts(readings)
    assert facts.rails == ("cpu/S3M_VDD_CPUCL1", "gpu/S2S_VDD_G3D")
    assert facts.grade == "A"
    assert trace_of(facts, readings).mj["cpu/S3M_VDD_CPUCL1"] == pytest.approx((0.0, 333.0))


@pytest.mark.parametrize("text", ["", "packet { timestamp: 3 }", TRACE.replace("energy_data", "other")])
def test_traces_without_rails(text):
    with pytest.raises(CheckpointError, match="collect_power_rails"):
        parse_power_rails(text)


@given(st.text())
def test_any_text(text):
    for whole in (text, TRACE + text, TRACE.replace("333000", text)):
        with contextlib.suppress(CheckpointError):
            parse_power_rails(whole)
