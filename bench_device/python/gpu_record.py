"""One record of the PyTorch reference on an NVIDIA GPU, with energy from NVML's counter, as a JSON line.

    python3 bench_device/python/gpu_record.py [CHECKPOINT] [--batch 64] [--sampler heun] [--seconds 12]
        [--samples FOLDER]

Needs cmexport importable (PYTHONPATH), PyTorch with CUDA, pydantic and pillow. NVML is asked through its C library,
which the driver brings. The workload is the reference sampler in float32 (TF32 off), or diffusion by the same network
(`--sampler heun`: 18 steps, 35 evaluations); parity is against the same sampler on the CPU. The GPU must be free: idle
power is measured on both sides.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import importlib
import json
import platform
import sys
import time
from pathlib import Path

REQUIRED = ("numpy", "torch", "pydantic", "PIL")


class NvmlCounter:
    """The total-energy counter of one GPU, straight from the driver's library (Volta and newer)."""

    def __init__(self, facts, reading, index=0):
        self.facts = facts
        self._reading = reading
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            raise SystemExit("error: no libnvidia-ml.so.1: is NVIDIA's driver installed?") from None
        self._handle = ctypes.c_void_p()
        self._check(self._nvml.nvmlInit_v2())
        self._check(self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(self._handle)))

    def read(self):
        """Millijoules since the driver was loaded."""
        mj = ctypes.c_ulonglong()
        self._check(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(mj)))
        return self._reading(time.monotonic(), {"gpu0": float(mj.value)})

    def celsius(self):
        """Of the GPU's die."""
        found = ctypes.c_uint()
        self._check(self._nvml.nvmlDeviceGetTemperature(self._handle, ctypes.c_uint(0), ctypes.byref(found)))
        return float(found.value)

    def driver(self):
        """Version of the driver."""
        text = ctypes.create_string_buffer(80)
        self._check(self._nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text))))
        return text.value.decode()

    def void(self):
        """Say that nothing is wrong: a GPU has no battery."""
        return ""

    def close(self):
        """Leave NVML."""
        self._nvml.nvmlShutdown()

    def _check(self, code):
        if code:
            self._nvml.nvmlErrorString.restype = ctypes.c_char_p
            raise SystemExit("error: NVML: " + self._nvml.nvmlErrorString(code).decode())


def missing_modules():
    """Which of the required modules are not here."""
    absent = []
    for name in REQUIRED:
        try:
            importlib.import_module(name)
        except ImportError:
            absent.append(name)
    return absent


class Workload:
    """The reference sampler on a device, with its inputs there."""

    def __init__(self, torch, sampler, runs, device):
        self._torch = torch
        self._sampler = sampler.to(device)
        self._runs = [{name: torch.from_numpy(array).to(device) for name, array in run.items()} for run in runs]

    def run(self, index=0):
        """Pictures on the CPU, which is when a run is over."""
        with self._torch.inference_mode():
            return self._sampler(**self._runs[index]).cpu().numpy()


def measure(checkpoint, batch, seconds, samples, device="cuda", counter=None, sampler="consistency"):
    """One BenchRecord; `counter` replaces NVML (for tests)."""
    import torch

    from cmexport.bench.devices.base import BenchJob, ExpectedPictures, MeasureOptions
    from cmexport.bench.energy.base import Reading
    from cmexport.bench.energy.zeus_sources import nvml_facts
    from cmexport.bench.lines import parse_line
    from cmexport.bench.meter import LocalMeter, share
    from cmexport.bench.outcome import JobOutcome, device_record, record_of
    from cmexport.bench.schema import ArtifactRecord
    from cmexport.checkpoints import load_checkpoint
    from cmexport.model import SampleRequest
    from cmexport.parity.gates import gate_for
    from cmexport.parity.inputs import draw_inputs
    from cmexport.runner import picture_of
    from cmexport.sampling.methods import resolve
    from cmexport.sampling.reference import TorchRunner

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    counter = counter or NvmlCounter(nvml_facts(("gpu0",)), Reading)
    model = load_checkpoint(checkpoint, {})
    request = SampleRequest(batch=batch, sampler=sampler)
    resolved = resolve(model, request)
    signature = resolved.signature
    drawn = draw_inputs(signature, batch)
    with TorchRunner(resolved) as reference:
        expected = picture_of(reference(drawn[0]))

    outcome = JobOutcome()

    def tell(kind, **fields):
        outcome.add(parse_line(json.dumps({"kind": kind, **fields}).encode()))

    def heat():
        celsius = counter.celsius() if hasattr(counter, "celsius") else None
        why = {"status": "NVML has no word for it", "throttled": "not asked", "celsius": "no sensor"}
        tell("thermal", t_s=time.monotonic(), celsius=celsius, why=why)

    def idle():
        time.sleep(counter.facts.settle_s)
        start = time.monotonic()
        time.sleep(counter.facts.idle_s)
        tell("idle", start_s=start, end_s=time.monotonic())

    on_gpu = device == "cuda"
    tell(
        "meta",
        contract=1,
        runner="gpu_record.py",
        runner_version="1",
        runtime="torch-cuda" if on_gpu else "torch",
        runtime_version=torch.__version__,
        realized=device,
        tools={"torch": torch.__version__, "python": platform.python_version()},
        device={
            "model": None,
            "processor": platform.processor() or platform.machine(),
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "accelerator": torch.cuda.get_device_name(0) if on_gpu else None,
            "facts": {"driver": counter.driver(), "cuda": str(torch.version.cuda)} if on_gpu else {},
        },
        why={"threads": "a GPU has its own", "placement": "all of it runs on one device"},
    )
    before = torch.cuda.memory_allocated() / 1e6 if on_gpu else None
    start = time.perf_counter()
    work = Workload(torch, resolved.module(), list(drawn), device)
    tell("load", ms=(time.perf_counter() - start) * 1e3, cold=True)
    start = time.perf_counter()
    pictures = work.run()
    tell("first", ms=(time.perf_counter() - start) * 1e3)
    tell(
        "output",
        run=0,
        name=signature.output.name,
        dtype="float32",
        shape=list(pictures.shape),
        data=base64.b64encode(pictures.astype("<f4").tobytes()).decode(),
    )
    for _ in range(10):
        work.run()
    heat()
    meter = LocalMeter(counter)
    meter.start()
    idle()
    times = []
    start_s = time.monotonic()
    while len(times) < 30 or time.monotonic() - start_s < seconds:
        start = time.perf_counter()
        work.run()
        times.append((time.perf_counter() - start) * 1e3)
    tell("samples", repeat=0, round=0, ms=times, start_s=start_s, end_s=time.monotonic())
    heat()
    idle()
    tell(
        "memory",
        before_mb=before,
        peak_mb=torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None,
        after_mb=torch.cuda.memory_allocated() / 1e6 if on_gpu else None,
        method="torch.cuda.memory_allocated" if on_gpu else None,
        why=dict.fromkeys(("before_mb", "peak_mb", "after_mb", "method"), "no GPU"),
    )
    tell("done")
    meter.stop()

    path = Path(checkpoint)
    job = BenchJob(
        artifact=ArtifactRecord(
            name=f"{path.stem}-torch-fp32{'' if sampler == 'consistency' else '-' + sampler}",
            sha256=model.source.sha256,
            size_bytes=path.stat().st_size,
            target="torch",
            precision="fp32",
            steps=resolved.plan.steps,
            task="generate",
            batch=batch,
            checkpoint_sha256=model.source.sha256,
            sampler=sampler,
        ),
        folder=path.parent,
        files=(path.name,),
        signature=signature,
        runs=tuple(drawn),
        expected=ExpectedPictures("PyTorch float32 on the CPU of the same machine", expected, gate_for("fp32")),
    )
    options = MeasureOptions(
        min_seconds=seconds,
        warmup=10,
        rounds=1,
        pictures=batch,
        samples=samples,
        run=time.strftime("%Y%m%dT%H%M%SZ-gpu", time.gmtime()),
    )
    trace = share(meter.trace(outcome), outcome, outcome, batch)
    place = device_record("local", "local", outcome.meta, "")
    return record_of(place, job, options, outcome, trace, requested=device)


def main(arguments):
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--sampler", choices=("consistency", "heun"), default="consistency")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--samples", type=Path, help="folder for the side file of raw samples")
    given = parser.parse_args(arguments)
    if absent := missing_modules():
        raise SystemExit(f"error: this needs {', '.join(absent)}: python3 -m pip install {' '.join(absent)}")
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("error: PyTorch sees no CUDA device here")
    from cmexport.demo import demo_checkpoint

    record = measure(
        given.checkpoint or demo_checkpoint(), given.batch, given.seconds, given.samples, sampler=given.sampler
    )
    print(record.model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1:])
