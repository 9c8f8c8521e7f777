"""One fused file against the usual way to ship a latent model: three naive exports and a scheduler's loop in Python.

    python -m benchmarks.text_to_image --steps 4 out/emoji-onnx-fp32 out/emoji-onnx-int8
    python -m benchmarks.text_to_image --steps 4 --pipeline /tmp/sd15 --half --rounds 3 --runs 1 out/sd15-onnx-fp16

The usual way is made here from the packaged emoji model, or from another pipeline: `torch.onnx.export` of diffusers'
and transformers' modules (text encoder, UNet, decoder), opened in ONNX Runtime as they are, with diffusers'
LCMScheduler between them. Every engine has a process of its own; they take turns, each turn is a few pictures, and the
ratio is taken within a round. Pictures are compared with each other first: a faster file that paints something else is
no rival. Beside the time stand operators, seconds to load, and the most memory of a process on top of what it had
before it loaded any model.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = "crying cat"


def make_usual(pipeline: Path, out: Path, *, half: bool = False, side: int | None = None) -> None:
    """Write text.onnx, unet.onnx and decoder.onnx as people export them; latents have `side` pixels, or their own."""
    import torch
    from diffusers import LatentConsistencyModelPipeline

    pipe: Any = LatentConsistencyModelPipeline.from_pretrained(
        pipeline, torch_dtype=torch.float16 if half else torch.float32
    )

    class Part(torch.nn.Module):
        def __init__(self, module: torch.nn.Module, call: Callable[..., Any]) -> None:
            super().__init__()
            self.module, self.call = module, call

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.call(self.module, *inputs)
            return result

    width, side = pipe.text_encoder.config.hidden_size, side or pipe.unet.config.sample_size
    shapes = ((1, 4, side, side), (1, 77, width), (1, pipe.unet.config.time_cond_proj_dim))
    sample, embedded, guided = (torch.randn(*shape).to(pipe.unet.dtype) for shape in shapes)
    tokens = torch.zeros(1, 77, dtype=torch.int64)
    parts: dict[str, tuple[torch.nn.Module, tuple[torch.Tensor, ...]]] = {
        "text": (Part(pipe.text_encoder, lambda m, t: m(t, return_dict=False)[0]), (tokens,)),
        "unet": (
            Part(pipe.unet, lambda m, x, t, e, w: m(x, t, e, timestep_cond=w, return_dict=False)[0]),
            (sample, torch.tensor(999), embedded, guided),
        ),
        "decoder": (Part(pipe.vae, lambda m, z: m.decode(z, return_dict=False)[0]), (sample,)),
    }
    for name, (module, inputs) in parts.items():
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        path = out / f"{name}.onnx"
        # Protobuf refuses 2 GiB.
        beside = size > 1_000_000_000
        torch.onnx.export(module.eval(), inputs, path, dynamo=True, external_data=beside, verbose=False)


def _session(path: Path, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _noise(steps: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
    drawn = np.random.default_rng(0)
    return drawn.standard_normal(shape, np.float32), drawn.standard_normal((max(steps - 1, 1), *shape), np.float32)


def open_usual(folder: Path, pipeline: Path, steps: int, guidance: float, threads: int) -> Callable[[], Any]:
    """Return what paints a picture with three sessions and the scheduler."""
    import torch
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler
    from diffusers.schedulers import scheduling_lcm
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    scheduler: Any = LCMScheduler.from_pretrained(pipeline / "scheduler")
    scale = json.loads((pipeline / "vae" / "config.json").read_text())["scaling_factor"]
    text, unet, decoder = (_session(folder / f"{name}.onnx", threads) for name in ("text", "unet", "decoder"))
    names = [i.name for i in unet.get_inputs()]
    shape = tuple(unet.get_inputs()[0].shape)
    kind = np.float16 if unet.get_inputs()[0].type == "tensor(float16)" else np.float32
    noise, renoise = _noise(steps, shape)
    embed: Any = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    width = unet.get_inputs()[3].shape[1]

    def paint() -> Any:
        tokens = tokenizer(PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="np").input_ids
        (embedded,) = text.run(None, {text.get_inputs()[0].name: tokens.astype(np.int64)})
        guided = embed(None, torch.tensor([guidance - 1.0]), embedding_dim=width).numpy()
        scheduler.set_timesteps(steps)
        later = iter(torch.from_numpy(renoise))
        scheduling_lcm.randn_tensor = lambda *_, **__: next(later)
        x = torch.from_numpy(noise)
        denoised = x
        for t in scheduler.timesteps:
            taken = (x.numpy().astype(kind), np.array(int(t)), embedded, guided.astype(kind))
            (predicted,) = unet.run(None, dict(zip(names, taken, strict=True)))
            x, denoised = scheduler.step(torch.from_numpy(predicted.astype(np.float32)), t, x, return_dict=False)
        latents = (denoised.numpy() / scale).astype(kind)
        (image,) = decoder.run(None, {decoder.get_inputs()[0].name: latents})
        return np.clip(image, -1.0, 1.0).astype(np.float32)

    return paint


def open_fused(folder: Path, steps: int, threads: int) -> Callable[[], Any]:
    """Return what paints a picture with one file, tokens by the artefact's own tokenizer."""
    from cmexport.tokenizer import read_tokenizer

    session = _session(folder / "model.onnx", threads)
    taken = {i.name: i.shape for i in session.get_inputs()}
    noise, renoise = _noise(steps, tuple(taken["noise"]))
    tokenizer = read_tokenizer(folder / "tokenizer")

    def paint() -> Any:
        given = {"noise": noise, "tokens": np.array([tokenizer.encode(PROMPT)], np.int64)}
        if "renoise" in taken:
            given["renoise"] = renoise
        return session.run(None, given)[0]

    return paint


def _megabytes(field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _nodes(folder: Path) -> int:
    """Count the operators of all models in a folder."""
    import onnx

    return sum(len(onnx.load(path, load_external_data=False).graph.node) for path in folder.glob("*.onnx"))


def serve(open_it: Callable[[], Callable[[], Any]]) -> None:
    """Answer `facts -`, `picture PATH` and `run N` on standard input with one line each."""
    # Both engines' libraries: what they take is no model's.
    importlib.import_module("onnxruntime")
    importlib.import_module("diffusers")
    before, begin = _megabytes("VmRSS"), time.perf_counter()
    paint = open_it()
    load_s = time.perf_counter() - begin
    for line in sys.stdin:
        what, argument = line.split()
        if what == "facts":
            print(json.dumps({"load_s": load_s, "peak_mb": _megabytes("VmHWM") - before}), flush=True)
        elif what == "picture":
            np.save(argument, paint())
            print("done", flush=True)
        else:
            paint()
            seconds = []
            for _ in range(int(argument)):
                begin = time.perf_counter()
                paint()
                seconds.append(time.perf_counter() - begin)
            print(json.dumps(seconds), flush=True)


def ask(child: subprocess.Popen[str], line: str) -> str:
    """Send a command and wait for its answer."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(f"an engine ended: {child.args!r}")
    return answer


def main() -> None:
    """Make the rival, measure in turns, print a table and one JSON line."""
    from cmexport.demo import demo_checkpoint

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artefacts", nargs="*", type=Path, help="exported with the same --steps and --guidance")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=5.0, help="scale")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--runs", type=int, default=5, help="pictures a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pipeline", type=Path, default=demo_checkpoint("emoji"), help="a folder of diffusers")
    parser.add_argument("--half", action="store_true", help="the three files in half precision")
    parser.add_argument("--side", type=int, help="of the latents")
    parser.add_argument("--usual", type=Path, help="folder of the three files, made there where they are not")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    pipeline = asked.pipeline
    if asked.child:
        kind, folder = asked.child[0], Path(asked.child[1])
        usual = kind == "usual"
        serve(
            partial(open_usual, folder, pipeline, asked.steps, asked.guidance, asked.threads)
            if usual
            else partial(open_fused, folder, asked.steps, asked.threads)
        )
        return
    with tempfile.TemporaryDirectory(prefix="cmexport-usual-") as made:
        files = asked.usual or Path(made)
        if not (files / "decoder.onnx").exists():
            files.mkdir(parents=True, exist_ok=True)
            # In a process of its own, whose memory ends with it.
            making = get_context("spawn").Process(
                target=make_usual, args=(pipeline, files), kwargs={"half": asked.half, "side": asked.side}
            )
            making.start()
            making.join()
            if making.exitcode:
                raise SystemExit("the three files could not be made")
        engines = {"usual": ("usual", files), **{a.name: ("fused", a) for a in asked.artefacts}}
        # Threads that spin after a run would take the next engine's turn.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        options = ["--steps", str(asked.steps), "--guidance", str(asked.guidance)]
        options += ["--threads", str(asked.threads), "--pipeline", str(pipeline)]
        command = [sys.executable, "-m", "benchmarks.text_to_image", *options]
        children = {
            name: subprocess.Popen(
                [*command, "--child", kind, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for name, (kind, folder) in engines.items()
        }
        pictures = {}
        for name, child in children.items():
            ask(child, f"picture {made}/picture.npy")
            pictures[name] = np.load(f"{made}/picture.npy")
        ms: dict[str, list[float]] = {name: [] for name in children}
        for _ in range(asked.rounds):
            for name, child in children.items():
                ms[name].append(1e3 * statistics.median(json.loads(ask(child, f"run {asked.runs}"))))
        nodes = {name: _nodes(folder) for name, (_, folder) in engines.items()}
        loads = {name: json.loads(ask(child, "facts -")) for name, child in children.items()}
        for child in children.values():
            child.kill()
            child.wait()
    for name, found in ms.items():
        ratios = sorted(mine / usual for mine, usual in zip(found, ms["usual"], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        error = float(np.sqrt(np.mean((pictures[name] - pictures["usual"]) ** 2)))
        decibel = float("inf") if error == 0 else 20 * np.log10(2.0 / error)
        facts = {"engine": name, "median_ms": round(statistics.median(found), 2), "ratio": round(middle, 3)}
        facts |= {"quartiles": [round(low, 3), round(high, 3)], "db_to_usual": round(decibel, 1)}
        facts |= {"nodes": nodes[name], **{key: round(value, 2) for key, value in loads[name].items()}}
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
