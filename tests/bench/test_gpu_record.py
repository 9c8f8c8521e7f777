"""The GPU script on the CPU, with a made-up counter: everything but CUDA and NVML."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from cmexport.bench.energy.base import Reading, SourceFacts
from cmexport.bench.energy.window import energy_from_trace
from cmexport.bench.samples import read_samples, timing_from_samples
from cmexport.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[2] / "bench_device/python/gpu_record.py"
    spec = importlib.util.spec_from_file_location("gpu_record", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Counter:
    """50 W all the time and 100 W more from the first run to the last, by a clock that moves every 10 ms."""

    facts = SourceFacts("a made-up counter", "energy", "A", ("gpu0",), 0.01, idle_s=2.1, settle_s=0.1)

    def __init__(self):
        self._begin = time.monotonic()

    def read(self):
        now = time.monotonic() - self._begin
        busy = min(max(now - 2.2, 0.0), 2.0)
        moved = int((50e3 * now + 100e3 * busy) / 500) * 500
        return Reading(now + self._begin, {"gpu0": float(moved)})

    def celsius(self):
        return 40.0

    def void(self):
        return ""

    def close(self):
        pass


def test_a_record_from_start_to_end(script, tiny_checkpoint, tmp_path, monkeypatch):
    settings = {"image_size": "8", "num_head_channels": "32"}
    monkeypatch.setattr("cmexport.checkpoints.load_checkpoint", lambda path, _: load_checkpoint(path, settings))
    counter = Counter()
    # The counter's busy time begins with its first reading, which is when the meter starts.
    original = counter.read

    def first_read():
        counter._begin = time.monotonic()
        counter.read = original
        return original()

    counter.read = first_read
    record = script.measure(tiny_checkpoint, 4, 2.0, tmp_path / "samples", device="cpu", counter=counter)
    assert record.failure is None
    assert record.backend.realized == "cpu"
    assert record.artifact.batch == 4
    assert record.parity.pictures == 4
    assert record.parity.passed
    assert record.timing_ms.n >= 30
    assert record.energy.grade == "A", record.energy.grade_rule
    assert record.energy.idle_before_w == pytest.approx(50, rel=0.1)
    assert record.energy.active_w == pytest.approx(150, rel=0.1)
    assert record.energy.images == 4 * record.timing_ms.n
    raw = read_samples(tmp_path / record.timing_ms.samples)
    assert timing_from_samples(raw, record.timing_ms.samples) == record.timing_ms
    assert energy_from_trace(raw.trace) == record.energy


def test_missing_modules_are_named(script, monkeypatch):
    monkeypatch.setattr(script, "REQUIRED", ("numpy", "no_such_module"))
    with pytest.raises(SystemExit, match="this needs no_such_module: python3 -m pip install no_such_module"):
        script.main([])


def test_without_cuda(script, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        script.main([])
