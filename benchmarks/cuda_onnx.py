"""A TensorRT artefact on a CUDA machine: what the engine says there, parity at its precision, latency beside torch's.

    python benchmarks/cuda_onnx.py out/cm_cifar10-tensorrt-fp16 [--seeds 64] [--runs 200]

Prints one JSON object. The typed ONNX file runs in ONNX Runtime's CUDA provider where that is installed; else the same
captured graph runs in PyTorch in half precision, normalization statistics and the picture stream in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from cmexport.artifact import read_manifest
from cmexport.errors import CmexportError
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import compare
from cmexport.recorded import checkpoint_of, request_of
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.tensorrt.checking import engine_runner

CUDA = "CUDAExecutionProvider"


def milliseconds(run, runs):
    """Median and 10th and 90th percentile of one call, the GPU waited for."""
    for _ in range(20):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    tenths = statistics.quantiles(times, n=10)
    return {"p10_ms": round(tenths[0], 4), "p50_ms": round(statistics.median(times), 4), "p90_ms": round(tenths[8], 4)}


def try_engine(folder, manifest, inputs, expected, runs):
    """The engine's parity and latency, or the sentence that cmexport prints for it."""
    path = next((folder / f.path for f in manifest.files if f.path.endswith(".engine")), None)
    if path is None:
        return {"refused": "the artefact has no engine"}
    try:
        with engine_runner(path, manifest.session.options) as run:
            found = np.concatenate([picture_of(run(arrays)) for arrays in inputs])
            return {"mean_db": compare(expected, found).mean_db, "latency": milliseconds(run.execute, runs)}
    except CmexportError as error:
        return {"refused": str(error)}


def half_program(captured):
    """The captured graph on the GPU under autocast: convolutions and products in float16, normalization in float32."""
    module = to_module(captured.program).cuda()

    def run(inputs):
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            return module(**inputs)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--runs", type=int, default=200)
    asked = parser.parse_args()
    manifest = read_manifest(asked.folder)
    model, request = checkpoint_of(manifest, None, {}), request_of(manifest)
    resolved = resolve(model, request)
    captured = apply_rewrites(capture(resolved), REWRITES)
    inputs = list(draw_inputs(captured.signature, asked.seeds))
    with TorchRunner(resolved) as run:
        expected = np.concatenate([picture_of(run(arrays)) for arrays in inputs])
    record = {
        "artifact": asked.folder.name,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "pictures": len(expected),
        "engine": try_engine(asked.folder, manifest, inputs, expected, asked.runs),
    }
    onnx_file = asked.folder / manifest.files[0].path
    on_gpu = [{n: torch.from_numpy(a).cuda() for n, a in arrays.items()} for arrays in inputs]
    if CUDA in ort.get_available_providers():
        with OnnxRuntimeRunner(onnx_file, "all", (CUDA, "CPUExecutionProvider")) as run:
            found = np.concatenate([picture_of(run(arrays)) for arrays in inputs])
            latency = milliseconds(lambda: run(inputs[0]), asked.runs)
        record["typed"] = {"by": f"ONNX Runtime {ort.__version__}, CUDA provider", "latency": latency}
    else:
        run = half_program(captured)
        found = np.concatenate([run(arrays).float().cpu().numpy() for arrays in on_gpu])
        record["typed"] = {
            "by": "the captured graph in PyTorch",
            "latency": milliseconds(lambda: run(on_gpu[0]), asked.runs),
        }
    difference = compare(expected, found)
    record["typed"] |= {"mean_db": difference.mean_db, "min_db": difference.min_db, "max_abs": difference.max_abs}
    sampler = resolved.module().requires_grad_(False).cuda()
    for name, module in (("eager", sampler), ("compile", torch.compile(sampler, mode="reduce-overhead"))):
        for kind in (torch.float32, torch.float16):

            def call(module=module, kind=kind):
                with torch.no_grad(), torch.autocast("cuda", kind, enabled=kind is not torch.float32):
                    return module(**on_gpu[0])

            record[f"torch_{name}_{str(kind)[6:]}"] = milliseconds(call, asked.runs)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
