"""Timing in turns, and a table of really written files."""

from __future__ import annotations

import pytest

from cmexport.checkpoints import load_checkpoint
from cmexport.sampling.schedules import schedule_for_steps
from cmexport.targets.info import LoweringOptions
from cmexport.tuning.comparison import compare_steps, time_in_turns

OVERRIDES = {"image_size": "8", "num_head_channels": "32"}


def test_turns_alternate_and_the_median_counts():
    now, order = [0.0], []

    def runner(name, seconds):
        spent = iter(seconds)

        def run(inputs):
            order.append(name)
            now[0] += next(spent)

        return run

    slow = runner("slow", [9.0, 9.0, 0.004, 0.002, 0.003])
    quick = runner("quick", [9.0, 9.0, 0.001, 0.001, 5.0])
    assert time_in_turns([(slow, {}), (quick, {})], 3, lambda: now[0]) == [pytest.approx(3.0), pytest.approx(1.0)]
    assert order == ["slow", "quick"] * 5


def test_rows_hold_size_and_latency_of_each_file(tiny):
    model = load_checkpoint(tiny, OVERRIDES)
    schedules = [schedule_for_steps(model, k) for k in (1, 2)]
    one, two = compare_steps(model, schedules, [0.5, None], LoweringOptions())
    assert (one.steps, two.steps, one.distance, two.distance) == (1, 2, 0.5, None)
    assert one.latency_ms > 0
    assert 4 * 0.5 * model.parameters < one.bytes < two.bytes < 1.4 * one.bytes
    assert two.schedule.sigmas[0] == 80.0
