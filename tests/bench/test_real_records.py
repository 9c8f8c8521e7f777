"""Figures of a real GPU, computed again from their raw samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmexport.bench.energy.window import energy_from_trace
from cmexport.bench.records import read_records, samples_of
from cmexport.bench.samples import repeat_medians, timing_from_samples

RECORDS = Path(__file__).parent / "fixtures" / "h100.jsonl"


@pytest.fixture(scope="module", params=[0, 1], ids=["batch 64", "batch 256"])
def record(request):
    return read_records(RECORDS)[request.param]


def test_every_figure_can_be_computed_again(record):
    raw = samples_of(RECORDS, record)
    assert timing_from_samples(raw, record.timing_ms.samples) == record.timing_ms
    assert energy_from_trace(raw.trace) == record.energy
    assert repeat_medians(raw) == record.validity.repeat_p50_ms


def test_energy_of_grade_a(record):
    energy = record.energy
    assert energy.grade == "A"
    assert energy.window_s >= 10
    assert energy.updates >= 50
    assert energy.idle_before_w < energy.active_w / 2
    assert energy.mj_per_image_net < energy.mj_per_image_gross
    assert record.parity.passed


def test_the_counter_agrees_with_a_plain_difference(record):
    """An independent way: the counter at the window's edges, idle from the end points of the idle stretches."""
    trace = samples_of(RECORDS, record).trace

    def at(t):
        return max((v for s, v in zip(trace.t_s, trace.mj["gpu0"], strict=True) if s <= t), default=0.0)

    def watts(span):
        return (at(span.end_s) - at(span.start_s)) / (span.end_s - span.start_s) / 1e3

    (window,) = trace.active
    idle = (watts(trace.idle_before) + watts(trace.idle_after)) / 2
    net = (watts(window) - idle) * (window.end_s - window.start_s) * 1e3 / trace.images
    assert record.energy.mj_per_image_net == pytest.approx(net, rel=0.03)
