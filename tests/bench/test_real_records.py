"""Figures of a real GPU, computed again from their raw samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmexport.bench.energy.window import energy_from_trace
from cmexport.bench.records import read_records, samples_of
from cmexport.bench.samples import repeat_medians, timing_from_samples

FILES = [Path(__file__).parent / "fixtures" / f"{name}.jsonl" for name in ("h100", "h200")]


ALL = [(file, number) for file in FILES for number in range(len(read_records(file)))]


@pytest.fixture(scope="module", params=ALL, ids=lambda found: f"{found[0].stem} {found[1]}")
def real(request):
    file, number = request.param
    record = read_records(file)[number]
    return record, samples_of(file, record)


def test_every_figure_can_be_computed_again(real):
    record, raw = real
    assert timing_from_samples(raw, record.timing_ms.samples) == record.timing_ms
    assert energy_from_trace(raw.trace) == record.energy
    assert repeat_medians(raw) == record.validity.repeat_p50_ms


def test_energy_of_grade_a(real):
    record, _ = real
    energy = record.energy
    assert energy.grade == "A"
    assert energy.window_s >= 10
    assert energy.updates >= 50
    assert energy.idle_before_w < energy.active_w
    assert energy.mj_per_image_net < energy.mj_per_image_gross
    assert record.parity.passed


def test_the_counter_agrees_with_a_plain_difference(real):
    """An independent way: the counter at the window's edges, idle from the end points of the idle stretches."""
    record, raw = real
    trace = raw.trace

    def at(t):
        return max((v for s, v in zip(trace.t_s, trace.mj["gpu0"], strict=True) if s <= t), default=0.0)

    def watts(span):
        return (at(span.end_s) - at(span.start_s)) / (span.end_s - span.start_s) / 1e3

    (window,) = trace.active
    idle = (watts(trace.idle_before) + watts(trace.idle_after)) / 2
    net = (watts(window) - idle) * (window.end_s - window.start_s) * 1e3 / trace.images
    assert record.energy.mj_per_image_net == pytest.approx(net, rel=0.03)
