"""The folder that a runner works through: `job.json`, the model, the inputs. See bench_device/README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from cmexport.bench.devices.base import BenchJob, ExpectedPictures, MeasureOptions
from cmexport.bench.lines import CONTRACT
from cmexport.signature import Input, Output
from cmexport.targets.registry import INFOS

_WATCH_MS = 20
_EXPECTED = "expected/0.bin"
_SELF_TEST_SLACK_DB = 15.0
_SELF_TEST_LEAST_DB = 15.0


def link(file: Path, place: Path) -> None:
    """Put a file into a folder by a link, since weights may be gigabytes."""
    place.symlink_to(file.resolve())


@dataclass(frozen=True)
class JobFolder:
    """Files of a job by path: bytes at hand, or a file of this machine."""

    files: Mapping[str, bytes | Path]

    def write(self, folder: Path, put: Callable[[Path, Path], object] = link) -> None:
        """Lay it out in an existing folder; `put(file, place)` brings files of this machine there."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                put(content, path)


def provider_of(job: BenchJob, options: MeasureOptions) -> str:
    """Return the unit or execution provider to ask for."""
    return str(job.session.get("ep", "cpu")) if options.provider == "auto" else options.provider


def model_path(files: Sequence[str]) -> str:
    """Return what a runtime opens: the first file, or the package that it lies in."""
    head = PurePosixPath(files[0]).parts[0]
    return head if PurePosixPath(head).suffix in {info.suffix for info in INFOS.values()} else files[0]


def job_folder(
    job: BenchJob,
    options: MeasureOptions,
    mode: Literal["alone", "served"],
    watch: Sequence[str] = (),
    *,
    self_test: bool = False,
) -> JobFolder:
    """Return the files of a job.

    Args:
        job: what is to be measured.
        options: how.
        mode: see bench_device/README.md.
        watch: files of the device whose text is wanted all the while.
        self_test: the first run's picture goes along, to be compared before anything is timed.
    """
    files: dict[str, bytes | Path] = {f"model/{path}": job.folder / path for path in job.files}
    runs: list[dict[str, str]] = []
    for index, run in enumerate(job.runs):
        names = {}
        for spec in job.signature.inputs:
            names[spec.name] = f"inputs/{index}.{spec.name}.bin"
            array = np.ascontiguousarray(run[spec.name], dtype=np.dtype(spec.dtype).newbyteorder("<"))
            files[names[spec.name]] = array.tobytes()
        runs.append(names)
    facts = {
        "contract": CONTRACT,
        "name": job.artifact.name,
        "target": job.artifact.target,
        "model": f"model/{model_path(job.files)}",
        "function": job.session.get("function"),
        "provider": provider_of(job, options),
        "session": dict(job.session),
        "threads": options.threads,
        "inputs": [_tensor(spec) for spec in job.signature.inputs],
        "outputs": [_tensor(job.signature.output)],
        "runs": runs,
        "mode": mode,
        "warmup": options.warmup,
        "min_runs": options.min_runs,
        "min_seconds": options.min_seconds,
        "max_seconds": options.max_seconds and max(options.max_seconds, options.min_seconds),
        "repeats": options.repeats,
        "sustained_minutes": options.sustained_minutes,
        "watch": {"files": list(watch), "interval_ms": _WATCH_MS},
    }
    if self_test and not isinstance(job.expected, str):
        facts["self_test"], files[_EXPECTED] = _self_test(job.expected, job.signature.output)
    return JobFolder({"job.json": json.dumps(facts).encode(), **files})


def _self_test(expected: ExpectedPictures, output: Output) -> tuple[dict[str, Any], bytes]:
    """Return what the first run must give, before anything is timed.

    Browsers' GPU code has drawn wrong pictures without an error: onnxruntime-web's JSEP bundle (`ort.all`, `ort.jsep`)
    gave the demo wrong in float32 and black in float16. Milliseconds of that are worth nothing.
    """
    pictures = expected.images[: output.shape[0]]
    raw = np.ascontiguousarray(pictures, dtype=np.dtype(output.dtype).newbyteorder("<")).tobytes()
    # The gate is for the mean of many pictures, and one may lie below it; what was wrong lay 60 dB below.
    least_db = max(expected.gate_db - _SELF_TEST_SLACK_DB, _SELF_TEST_LEAST_DB)
    return {"file": _EXPECTED, "output": output.name, "dtype": output.dtype, "least_db": least_db}, raw


def _tensor(spec: Input | Output) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
