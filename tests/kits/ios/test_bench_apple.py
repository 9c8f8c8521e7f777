"""bench_device/apple, compiled against the same stubs and run on a job whose model ONNX Runtime plays."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from cmexport.bench.lines import parse_line

RUNNER = Path(__file__).parents[3] / "bench_device/apple"
SEARCH = " ".join(f"-Xswiftc -{kind}/mnt/stubs{more}" for kind in "IL" for more in ("", "/darwin"))


@pytest.fixture
def job(demo, tmp_path):
    """The demo model as if it were a Core ML job for one run."""
    folder = tmp_path / "job"
    (folder / "model.mlpackage").mkdir(parents=True)
    shutil.copyfile(demo / "model.onnx", folder / "model.mlpackage/model.onnx")
    noise = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    noise.tofile(folder / "noise.bin")
    np.array([8], np.int32).tofile(folder / "label.bin")
    facts = {
        "contract": 1,
        "name": "demo",
        "target": "coreml",
        "model": "model.mlpackage",
        "function": None,
        "provider": "cpu",
        "inputs": [
            {"name": "noise", "dtype": "float32", "shape": [1, 3, 32, 32]},
            {"name": "label", "dtype": "int32", "shape": [1]},
        ],
        "outputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 32, 32]}],
        "runs": [{"noise": "noise.bin", "label": "label.bin"}],
        **{"warmup": 1, "min_runs": 2, "min_seconds": 0.0, "repeats": 1, "sustained_minutes": 0.0},
    }
    (folder / "job.json").write_text(json.dumps(facts))
    session = onnxruntime.InferenceSession(demo / "model.onnx")
    return folder, session.run(["image"], {"noise": noise, "label": np.array([8])})[0]


def test_it_compiles_and_gives_the_right_picture(job, swift, stubs, tmp_path):
    folder, expected = job
    # The shared files are links into the kit's templates.
    shutil.copytree(RUNNER, tmp_path / "runner")
    command = (
        "export HOME=/tmp/home-$$ LD_LIBRARY_PATH=/mnt/stubs:/mnt/stubs/darwin; mkdir -p $HOME; cd /mnt/runner; "
        f"swift build --disable-sandbox {SEARCH} >&2; .build/debug/cmexport-bench /mnt/job"
    )
    done = swift(command, runner=tmp_path / "runner", job=folder, stubs=stubs)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = [parse_line(line) for line in done.stdout.encode().splitlines()]
    kinds = [line.kind for line in lines if line is not None]
    assert {"meta", "load", "first", "output", "samples", "memory", "thermal"} <= set(kinds)
    assert kinds[-1] == "done"
    (output,) = [json.loads(line) for line in done.stdout.splitlines() if '"kind":"output"' in line]
    found = np.frombuffer(base64.b64decode(output["data"]), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)
