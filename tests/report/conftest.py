"""Records with raw samples and artefacts built by hand. Devices are synthetic: no figure here was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmexport.artifact import write_preview
from cmexport.bench.energy.trace import EnergyTrace, Span
from cmexport.bench.energy.window import energy_from_trace, no_energy
from cmexport.bench.records import append_record, samples_folder
from cmexport.bench.samples import (
    MinuteSamples,
    RawSamples,
    SampleBlock,
    repeat_medians,
    sustained_from_samples,
    timing_from_samples,
    write_samples,
)
from cmexport.bench.schema import BenchRecord

CHECKPOINT = "c" * 64
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>|`*_[x](javascript:alert(1))\u202e\x00&amp;"


@dataclass(frozen=True)
class Builder:
    """Writes records and artefacts below a folder."""

    folder: Path

    @property
    def records(self) -> Path:
        return self.folder / "records.jsonl"

    def record(self, name: str = "toy-onnx-fp32", **changes: Any) -> BenchRecord:
        """Add a record with its samples; see the parameters of `made`."""
        record = made(self.records, name, **changes)
        append_record(self.records, record)
        return record

    def artifact(self, name: str = "toy-onnx-fp32", **changes: Any) -> Path:
        return artifact(self.folder / name, **changes)


@pytest.fixture
def build(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


@pytest.fixture(scope="session")
def builder() -> type[Builder]:
    return Builder


def trace_of(active_w: float, idle_w: float = 1.0, images: int = 100, period_s: float = 0.1) -> EnergyTrace:
    """5 s idle, 10 s active, 5 s idle, at constant power: (active - idle) * 10 s / images is the net energy."""
    times = np.arange(0.0, 20.0 + period_s / 2, period_s)
    power = np.where((times > 5.0) & (times <= 15.0), active_w, idle_w)
    joules = np.concatenate([[0.0], np.cumsum(power[1:] * np.diff(times))])
    return EnergyTrace(
        source="rails of a synthetic device",
        grade="A",
        rails=("soc",),
        t_s=tuple(map(float, times)),
        mj={"soc": tuple(map(float, joules * 1e3))},
        idle_before=Span(start_s=0.0, end_s=5.0),
        idle_after=Span(start_s=15.05, end_s=20.0),
        active=(Span(start_s=5.05, end_s=15.0),),
        images=images,
    )


def made(
    file: Path,
    name: str,
    *,
    ms: tuple[float, ...] = (10.0, 11.0, 12.0, 13.0),
    minutes: tuple[float, ...] = (),
    watts: float | None = None,
    images: int = 100,
    hour: int = 0,
    run: str = "",
    model: str | None = None,
    processor: str = "Toy CPU",
    sha: str | None = None,
    precision: str = "fp32",
    steps: int = 1,
    batch: int = 1,
    kept: bool = True,
    **sections: Any,
) -> BenchRecord:
    """A record whose figures are those of its samples; `sections` replaces fields of sections, or whole ones."""
    raw = RawSamples(
        reasons={"load_warm": "not tried", **({"trace": "none"} if watts is None else {})},
        load_cold=100.0,
        first=40.0,
        blocks=(SampleBlock(repeat=0, round=0, ms=ms, start_s=0.0, end_s=1.0),) if ms else (),
        minutes=tuple(
            MinuteSamples(reasons={"celsius": "no sensor"}, minute=i, ms=(v,), canary_ms=(1.0,))
            for i, v in enumerate(minutes)
        ),
        trace=None if watts is None else trace_of(watts, images=images),
    )
    path = write_samples(samples_folder(file), raw) if kept else None
    sustained = sustained_from_samples(raw)
    no = "a synthetic device does not tell"
    facts: dict[str, Any] = {
        "reasons": {} if sustained else {"sustained": "not asked for"},
        "device": {
            "reasons": dict.fromkeys(("cores", "memory_bytes", "os", "accelerator"), no)
            | ({} if model else {"model": no}),
            "name": "local",
            "kind": "local",
            "model": model,
            "processor": processor,
            "power": {
                "reasons": dict.fromkeys(
                    ("charger", "battery_percent", "low_power_mode", "power_mode", "airplane_mode", "screen_on"), no
                )
            },
        },
        "backend": {
            "reasons": {"placement": no},
            "name": "onnxruntime",
            "version": "1",
            "requested": "cpu",
            "realized": "cpu",
            "threads": 1,
        },
        "artifact": {
            "name": name,
            "sha256": sha or hashlib.sha256(name.encode()).hexdigest(),
            "size_bytes": 1_000_000,
            "target": "onnx",
            "precision": precision,
            "steps": steps,
            "task": "generate",
            "batch": batch,
            "checkpoint_sha256": CHECKPOINT,
        },
        "timing_ms": timing_from_samples(raw, path).model_dump(mode="json"),
        "memory_mb": {"before": 1.0, "peak": 2.0, "after": 2.0, "method": "none"},
        "energy": (no_energy("no counter") if raw.trace is None else energy_from_trace(raw.trace)).model_dump(
            mode="json"
        ),
        "thermal": {
            "reasons": dict.fromkeys(
                ("celsius_start", "celsius_end", "celsius_max", "status_start", "status_end", "throttled"), no
            )
        },
        "sustained": None if sustained is None else sustained.model_dump(mode="json"),
        "parity": {
            "reference": "PyTorch",
            "pictures": 4,
            "seed": 0,
            "gate_db": 100.0,
            "mean_db": 120.0,
            "min_db": 110.0,
            "max_abs": 1e-6,
            "identical": False,
            "non_finite": 0,
            "passed": True,
        },
        "validity": {
            "reasons": {"spread": "one repeat", "canary_drift": "no canary"},
            "min_runs_met": True,
            "min_seconds_met": True,
            "repeats": 1,
            "repeat_p50_ms": repeat_medians(raw),
        },
        "provenance": {
            "run": run or f"run-{hour}",
            "created": (NOON + timedelta(hours=hour)).isoformat(),
            "cmexport_version": "0.1.0",
            "runner": "python",
            "runner_version": "1",
        },
    }
    for section, fields in sections.items():
        facts[section] = {**facts[section], **fields} if isinstance(facts.get(section), dict) else fields
    return BenchRecord.model_validate_json(json.dumps(facts))


def artifact(
    folder: Path,
    *,
    precision: str = "fp32",
    sigmas: tuple[float, ...] = (80.0,),
    sampler: str = "consistency",
    evaluations: int | None = None,
    mean_db: float | None = 120.0,
    gate_db: float = 100.0,
    size: int = 1000,
    preview: bool = True,
    change: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> Path:
    """An artefact whose model file is noise; `mean_db` None leaves the parity out."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(folder.name.encode()).digest()[:4]))
    (folder / "model.onnx").write_bytes(rng.bytes(size))
    if preview:
        pictures = rng.uniform(-1, 1, (8, 3, 32, 32)).astype(np.float32)
        write_preview(folder / "preview.png", pictures, pictures + np.float32(0.01))
    files = [("model.onnx", "model")] + ([("preview.png", "preview")] if preview else [])
    count = len(sigmas) if evaluations is None else evaluations
    evaluation = {"sigma": 80.0, "c_skip": 0.0, "c_out": 0.5, "c_in": 0.01, "c_noise": 1.0, "noise_std": 80.0}
    shape = [1, 3, 32, 32]
    facts: dict[str, Any] = {
        "schema_version": 1,
        "cmexport_version": "0.1.0",
        "created": NOON.isoformat(),
        "name": "toy",
        "target": "onnx",
        "precision": precision,
        "task": "generate",
        "files": [
            {
                "path": name,
                "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
                "bytes": (folder / name).stat().st_size,
                "role": role,
            }
            for name, role in files
        ],
        "checkpoint": {
            **{"file": "toy.pt", "path": "toy.pt", "format": "openai", "sha256": CHECKPOINT, "bytes": 1},
            **{"architecture": {}, "parameters": 1, "settings": []},
        },
        "sampling": {
            **{"sigmas": sigmas, "evaluations": [evaluation] * count, "sampler": sampler},
            **{"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "levels": 18},
            **{"precond": "cm", "c_noise": "log", "renoise": "cm", "clamp": True},
        },
        "label": None,
        "classes": None,
        "inputs": [{"name": "noise", "shape": shape, "dtype": "float32", "meaning": ""}],
        "outputs": [{"name": "image", "shape": shape, "dtype": "float32", "meaning": ""}],
        "precision_plan": {},
        "rewrites": [],
        "parity": None if mean_db is None else parity(mean_db, gate_db),
        "tools": {},
        "session": {"ep": "cpu", "options": {}},
    }
    change(facts)
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


def parity(mean_db: float, gate_db: float) -> dict[str, Any]:
    passed = mean_db >= gate_db
    difference = {
        **{"pictures": 8, "identical_pictures": 0, "identical": False, "non_finite": 0, "mean_db": mean_db},
        **{
            "min_db": mean_db - 3,
            "worst_picture": 1,
            "max_abs": 1e-3,
            "off_by_1": 0.1,
            "off_by_2": 0.0,
            "off_by_4": 0.0,
        },
    }
    return {
        **{"reference": "PyTorch", "gate_db": gate_db, "applied_gate_db": gate_db, "passed": passed},
        **{"failed_rung": None if passed else "ONNX", "pictures_asked": 8, "pictures": 8, "seed": 0, "output": "float"},
        **{"reference_non_finite": 0, "reference_seconds": 0.1, "exact": None},
        "rungs": [{"name": "ONNX", "passed": passed, "seconds": 0.1, "difference": difference}],
    }
