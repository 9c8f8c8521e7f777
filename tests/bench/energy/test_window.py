"""The window rule, against counters made from a known power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.bench.energy.base import Reading, SourceFacts, trace_of, unwrap
from cmexport.bench.energy.trace import EnergyTrace, Span
from cmexport.bench.energy.window import energy_from_trace

FACTS = SourceFacts("a counter", "energy", "A", ("gpu",), 0.1)


def counter(power_w, *, seconds: float, update_s: float = 0.1, poll_s: float = 0.02, start_mj: float = 5e6):
    """Readings of a counter that moves every `update_s`, of a device that draws `power_w(t)` watts."""
    fine = np.arange(0.0, seconds + update_s, 0.001)
    energy = np.concatenate([[0.0], np.cumsum([power_w(t) for t in fine[:-1]]) * 0.001 * 1e3])
    readings = []
    for t in np.arange(0.0, seconds, poll_s):
        seen = np.floor(t / update_s + 1e-9) * update_s
        readings.append(Reading(float(t), {"gpu": start_mj + float(np.interp(seen, fine, energy))}))
    return readings


def trace(power_w, *, seconds=16.0, active=(3.0, 13.0), images=1000, update_s=0.1, **changes) -> EnergyTrace:
    made = trace_of(FACTS, counter(power_w, seconds=seconds, update_s=update_s))
    assert isinstance(made, EnergyTrace)
    spans = {
        "idle_before": Span(start_s=0.3, end_s=active[0] - 0.2),
        "idle_after": Span(start_s=active[1] + 0.2, end_s=seconds),
        "active": (Span(start_s=active[0], end_s=active[1]),),
        "images": images,
    }
    return made.model_copy(update={**spans, **changes})


def step(idle: float, busy: float, start: float = 3.0, end: float = 13.0):
    return lambda t: busy if start <= t < end else idle


def test_a_known_power_comes_out():
    """300 W for 10 s over 1000 pictures are 3000 mJ each, 80 W of them idle."""
    found = energy_from_trace(trace(step(80.0, 300.0)))
    assert found.grade == "A"
    assert found.active_w == pytest.approx(300.0, rel=0.01)
    assert found.mj_per_image_gross == pytest.approx(3000.0, rel=0.01)
    assert found.mj_per_image_net == pytest.approx(2200.0, rel=0.01)
    assert found.idle_before_w == pytest.approx(80.0, rel=0.02)
    assert found.updates == pytest.approx(99, abs=2)
    assert found.interval_ms == pytest.approx(100, rel=0.2)
    low, high = found.ci95_mj_per_image
    assert low < found.mj_per_image_net < high
    assert "50" not in found.reasons


def test_the_interval_covers_the_truth_and_grows_with_noise():
    """Power that jitters by 20 %: of forty runs about two may leave a 95 % interval."""
    widths, missed = [], 0
    for noise in (0.0, 0.2):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            table = 300.0 * (1 + noise * rng.standard_normal(200))
            found = energy_from_trace(trace(lambda t, table=table: table[int(t * 10)] if 3 <= t < 13 else 80.0))
            low, high = found.ci95_mj_per_image
            widths.append(high - low)
            missed += noise > 0 and not low <= 2200.0 <= high
    assert np.mean(widths[20:]) > 3 * np.mean(widths[:20])
    assert missed <= 4


def test_short_windows_are_refused_with_the_count():
    found = energy_from_trace(trace(step(80.0, 300.0), active=(3.0, 6.0), seconds=9.0))
    assert found.grade == "D"
    assert found.mj_per_image_net is None
    assert "moved 30 times in 3 s, 50 are needed" in found.reasons["mj_per_image_net"]
    assert found.source == "a counter"


def test_a_counter_that_stands_still_is_no_zero():
    found = energy_from_trace(trace(lambda t: 0.0))
    assert found.mj_per_image_net is None
    assert found.mj_per_image_gross is None
    assert "moved 0 times" in found.reasons["mj_per_image_gross"]


def test_idles_that_disagree_void_the_net():
    warm = energy_from_trace(trace(lambda t: 80.0 if t < 3 else 300.0 if t < 13 else 120.0))
    assert warm.grade == "D"
    assert warm.mj_per_image_net is None
    assert "more than 10 %" in warm.reasons["mj_per_image_net"]
    assert warm.mj_per_image_gross == pytest.approx(3000.0, rel=0.01)
    assert energy_from_trace(trace(lambda t: 80.0 if t < 3 else 300.0 if t < 13 else 100.0)).grade == "A"


@pytest.mark.parametrize("missing", ["idle_before", "idle_after"])
def test_no_idle_no_net(missing):
    found = energy_from_trace(trace(step(80.0, 300.0), **{missing: None}))
    assert found.mj_per_image_net is None
    assert "idle power was not measured" in found.reasons["mj_per_image_net"]


def test_idle_must_last_two_seconds():
    found = energy_from_trace(trace(step(80.0, 300.0), idle_after=Span(start_s=13.2, end_s=14.0)))
    assert "2 s are needed" in found.reasons["mj_per_image_net"]


def test_runs_that_draw_less_than_idle():
    found = energy_from_trace(trace(step(80.0, 79.0)))
    assert found.mj_per_image_net is None
    assert "no more than idle" in found.reasons["mj_per_image_net"]


def test_void_traces_and_no_pictures():
    assert (
        energy_from_trace(trace(step(8, 30), void="the phone is charging")).reasons[
            "source" if False else "mj_per_image_net"
        ]
        == "the phone is charging"
    )
    assert "no picture" in energy_from_trace(trace(step(8, 30), images=0)).reasons["mj_per_image_net"]


def test_windows_in_turns_count_only_their_own():
    """Two artefacts take turns of 5 s, one draws 300 W and one 200 W."""

    def power(t):
        return 80.0 if not 3 <= t < 23 else 300.0 if int((t - 3) / 5) % 2 == 0 else 200.0

    for first, watts in ((3.0, 300.0), (8.0, 200.0)):
        spans = tuple(Span(start_s=first + 10 * i, end_s=first + 10 * i + 5) for i in range(2))
        found = energy_from_trace(trace(power, seconds=26.0, active=(3.0, 23.0)).model_copy(update={"active": spans}))
        assert found.active_w == pytest.approx(watts, rel=0.02)
        assert found.window_s == pytest.approx(10.0)
        assert found.mj_per_image_net == pytest.approx((watts - 80) * 10, rel=0.03)


def test_only_headline_rails_are_added():
    readings = [
        Reading(r.t_s, {"gpu": r.values["gpu"], "memory": 1e9 + 7 * r.t_s}) for r in counter(step(80, 300), seconds=16)
    ]
    made = trace_of(FACTS, readings).model_copy(
        update={
            "idle_before": Span(start_s=0.3, end_s=2.8),
            "idle_after": Span(start_s=13.2, end_s=16),
            "active": (Span(start_s=3, end_s=13),),
            "images": 1000,
        }
    )
    assert set(made.mj) == {"gpu", "memory"}
    assert energy_from_trace(made).mj_per_image_gross == pytest.approx(3000, rel=0.01)


@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=40),
    st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_unwrapping_undoes_wrapping(steps, phase):
    """RAPL's counter wraps at max_energy_range_uj; steps between readings are shorter than a lap."""
    wrap = 1e6 + 1.0
    true = np.concatenate([[0.0], np.cumsum(steps)])
    shown = [(phase * wrap + value) % wrap for value in true]
    assert unwrap(shown, wrap) == pytest.approx(true, abs=1e-3)


def test_a_counter_that_falls_without_a_lap_is_refused():
    assert unwrap([5.0, 3.0], None) is None
    assert unwrap([500.0, 3.0], 100.0) is None
    made = trace_of(FACTS, [Reading(0.0, {"gpu": 5.0}), Reading(1.0, {"gpu": 3.0})])
    assert made == "a counter: counter of rail gpu ran backwards"


def test_missing_rails_are_named():
    readings = [Reading(float(i), {"other": 1.0}) for i in range(5)]
    assert trace_of(FACTS, readings) == "a counter: rail gpu could not be read"
    assert trace_of(FACTS, []) == "a counter: too few readings"


def test_power_is_integrated():
    facts = SourceFacts("a meter", "power", "A", ("in",), 0.1)
    made = trace_of(facts, [Reading(t, {"in": 1000.0 * t}) for t in (0.0, 1.0, 3.0)])
    assert made.mj["in"] == pytest.approx((0.0, 500.0, 4500.0))


def test_readings_out_of_order_are_sorted_and_doubles_dropped():
    made = trace_of(FACTS, [Reading(t, {"gpu": 10 * t}) for t in (2.0, 0.0, 1.0, 1.0)])
    assert made.t_s == (0.0, 1.0, 2.0)
    assert made.mj["gpu"] == (0.0, 10.0, 20.0)


def test_idle_is_the_median_of_both_sides():
    """80 W before and 100 W after: 90 W are subtracted, and the interval covers both."""
    found = energy_from_trace(trace(lambda t: 80.0 if t < 3 else 300.0 if t < 13 else 100.0))
    assert found.mj_per_image_net == pytest.approx(2100.0, rel=0.01)
    low, high = found.ci95_mj_per_image
    assert low < 2000.0
    assert high > 2200.0
