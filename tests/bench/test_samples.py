"""Figures from samples, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmexport.bench.samples import (
    MinuteSamples,
    RawSamples,
    SampleBlock,
    canary_drift,
    read_samples,
    repeat_medians,
    spread,
    sustained_from_samples,
    timing_from_samples,
    write_samples,
)
from cmexport.errors import CheckpointError, OutputError


def raw(*repeats, canaries=None, **more):
    blocks = tuple(
        SampleBlock(
            repeat=i,
            round=0,
            ms=tuple(ms),
            canary_ms=() if canaries is None else (canaries[i],),
            start_s=i,
            end_s=i + 1,
        )
        for i, ms in enumerate(repeats)
    )
    return RawSamples.known("not measured", blocks=blocks, **more)


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300))
def test_percentiles_are_numpys(ms):
    found = timing_from_samples(raw(ms), "a/b")
    assert found.n == len(ms)
    assert found.p50 == pytest.approx(np.median(ms))
    assert found.p90 == pytest.approx(np.quantile(ms, 0.9))
    assert found.iqr == pytest.approx(np.quantile(ms, 0.75) - np.quantile(ms, 0.25))
    assert (found.p99 is None) == (len(ms) < 200)
    assert (found.min, found.max) == (min(ms), max(ms))


def test_p99_at_two_hundred():
    ms = list(range(1, 201))
    assert timing_from_samples(raw(ms), None).p99 == pytest.approx(198.01)
    short = timing_from_samples(raw(ms[:-1]), None)
    assert short.p99 is None
    assert short.reasons["p99"] == "199 samples; a 99th percentile needs 200"


def test_nothing_timed_is_null_not_zero():
    found = timing_from_samples(RawSamples.known("the runner died"), None)
    assert found.n == 0
    assert found.p50 is None
    assert found.reasons["load_cold"] == "the runner died"


def test_repeats_that_disagree():
    samples = raw([10, 11, 12], [10.4, 11.4, 12.4], [9.9, 10.9, 11.9])
    assert repeat_medians(samples) == (11.0, 11.4, 10.9)
    assert spread(repeat_medians(samples)) == pytest.approx(11.4 / 10.9 - 1)
    assert spread([5.0]) is None


def test_the_canary_tells_the_clock():
    assert canary_drift(raw([10], [20], canaries=(1.0, 1.5))) == pytest.approx(0.5)
    assert canary_drift(raw([10], [20])) is None


def minutes(p50s, canaries=None):
    found = tuple(
        MinuteSamples.known(
            "no sensor", minute=i, ms=(p,) * 3, canary_ms=() if canaries is None else (canaries[i],) * 3
        )
        for i, p in enumerate(p50s)
    )
    return RawSamples.known("x", minutes=found)


def test_a_phone_that_throttles():
    """MegaDetector#34's Tensor G3: 196 ms at first, 400 later; the canary slows down as much."""
    found = sustained_from_samples(minutes([196, 200, 300, 390, 400, 400], [1.0, 1.02, 1.5, 2.0, 2.05, 2.05]))
    assert found.first_p50_ms == 196
    assert found.steady_p50_ms == 400
    assert found.slowdown == pytest.approx(400 / 196)
    assert found.canary_slowdown == pytest.approx(2.05)
    assert found.time_to_throttle_s == 120.0


def test_a_model_that_slows_down_by_itself():
    found = sustained_from_samples(minutes([100, 150, 200], [1.0, 1.0, 1.01]))
    assert found.slowdown == 2.0
    assert found.canary_slowdown == pytest.approx(1.01)
    assert found.time_to_throttle_s is None
    assert found.reasons["time_to_throttle_s"].startswith("never")


def test_without_a_canary():
    found = sustained_from_samples(minutes([100, 100]))
    assert found.canary_slowdown is None
    assert "no canary" in found.reasons["time_to_throttle_s"]
    assert sustained_from_samples(RawSamples.known("x")) is None


def test_side_files_are_named_by_their_hash(tmp_path):
    samples = raw([1.5, 2.5], load_cold=3.0)
    name = write_samples(tmp_path / "r.samples", samples)
    assert name == write_samples(tmp_path / "r.samples", samples)
    path = tmp_path / name
    assert read_samples(path) == samples
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.4"))
    with pytest.raises(CheckpointError, match="changed since it was measured"):
        read_samples(path)


def test_side_files_that_are_something_else(tmp_path):
    import hashlib

    for content in (b"", b"{}x", b"[]", b'{"blocks": [{}]}', b"\xff\xfe"):
        path = tmp_path / f"{hashlib.sha256(content).hexdigest()}.json"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not raw samples"):
            read_samples(path)
    with pytest.raises(CheckpointError, match="can't be read"):
        read_samples(tmp_path / "missing.json")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be made"):
        write_samples(tmp_path / "file" / "r.samples", raw([1.0]))
