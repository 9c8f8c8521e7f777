"""One graph of prompt, sampler and decoder on a CUDA machine, beside diffusers' pipeline there: time and energy.

    python -m benchmarks.sd_size make /tmp/sd15
    python -m benchmarks.cuda_text_to_image /tmp/sd15 --steps 1 4 --compile 1

Everything computes in half precision with the same weights. The pipeline is diffusers' own, called as its documentation
says, its modules eager or through torch.compile (`reduce-overhead`). The graph is what every target is lowered from,
run by PyTorch: products in float16, the sampler's line in float32; as it is, recorded once as a CUDA graph (a picture
is one launch), and through torch.compile. Engines take turns, ratios are taken within a round. Energy is the GPU's own
counter (NVML, whole board) over seconds of pictures, less what it draws while it waits. Each number of steps prints one
JSON object. No ONNX Runtime or TensorRT with kernels for this GPU belongs to the project's own packages, so their
files aren't timed here.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from cmexport.checkpoints import load_checkpoint
from cmexport.graph.capture import capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.methods import method_named, resolve
from cmexport.sampling.schedules import EXPORTED_EDITING_STEPS

PROMPT, GUIDANCE = "crying cat", 5.0
Paint = Callable[[], Any]

_PRODUCTS = {
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv_transpose2d.input,
    torch.ops.aten.linear.default,
    torch.ops.aten.matmul.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.scaled_dot_product_attention.default,
    torch.ops.aten.group_norm.default,
    torch.ops.aten.layer_norm.default,
}


class _Narrowing(fx.Interpreter):
    """Runs a graph whose weights are float16 and notes which inputs of products are float32."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.wide: set[tuple[fx.Node, fx.Node]] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, its float32 inputs narrowed where it is a product."""
        if n.target not in _PRODUCTS:
            return super().run_node(n)
        kept = {}
        for source in n.all_input_nodes:
            value = self.env[source]
            if isinstance(value, Tensor) and value.dtype == torch.float32:
                self.wide.add((source, n))
                kept[source], self.env[source] = value, value.half()
        result = super().run_node(n)
        self.env.update(kept)
        return result


def halved(module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> fx.GraphModule:
    """Store the weights in float16 and let products compute in it; what has no product between keeps float32."""
    module = module.half()
    found = _Narrowing(module)
    with torch.no_grad():
        found.run(*inputs.values())
    for source, user in found.wide:
        with module.graph.inserting_before(user):
            narrow = module.graph.call_function(torch.ops.aten.to.dtype, (source, torch.float16))
        user.replace_input_with(source, narrow)
    module.recompile()
    return module


def noises(shape: tuple[int, ...], steps: int) -> tuple[Tensor, Tensor]:
    """Return the first noise (1, C, H, W) and what is added between steps (K - 1, 1, C, H, W)."""
    drawn = np.random.default_rng(0)
    first = drawn.standard_normal(shape, np.float32)
    later = drawn.standard_normal((steps - 1, *shape), np.float32)
    return torch.from_numpy(first), torch.from_numpy(later)


def pipeline_of(folder: Path) -> Any:
    """Open the folder with diffusers."""
    import diffusers

    named = json.loads((folder / "model_index.json").read_text())["_class_name"]
    pipeline = getattr(diffusers, named).from_pretrained(folder, torch_dtype=torch.float16)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda")


def by_pipeline(pipeline: Any, steps: int, noise: Tensor, renoise: Tensor) -> Paint:
    """Return what paints a picture with diffusers' pipeline, in [0, 1]."""
    from diffusers.schedulers import scheduling_lcm

    kind, device = pipeline.unet.dtype, pipeline.device
    first, later = noise.to(device, kind), renoise.to(device, kind)

    def paint() -> Any:
        rest = iter([*later, torch.zeros_like(first)])
        scheduling_lcm.randn_tensor = lambda *_, **__: next(rest)
        return pipeline(
            PROMPT, latents=first.clone(), num_inference_steps=steps, guidance_scale=GUIDANCE, output_type="pt"
        ).images

    return paint


def graph_of(model: ConsistencyModel, steps: int) -> fx.GraphModule:
    """Capture and rewrite prompt, sampler and decoder."""
    schedule = method_named("consistency").spaced(model, steps, "generate", EXPORTED_EDITING_STEPS)
    request = SampleRequest(sigmas=schedule.sigmas, schedule=schedule.origin, guidance=GUIDANCE)
    # A copy: the program shares its weights with the model, which stays in float32.
    return copy.deepcopy(to_module(apply_rewrites(capture(resolve(model, request)), REWRITES).program))


def recorded(call: Paint) -> Paint:
    """Return what launches again all kernels of a call, on the same tensors."""
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        image = call()

    def paint(keep: Paint = call) -> Any:  # noqa: ARG001 - holds the weights, which the recording doesn't
        graph.replay()
        return image

    return paint


def turn(paint: Paint, seconds: float) -> float:
    """Paint for some time and return the median of a picture, in milliseconds."""
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 5:
        begin = time.perf_counter()
        paint()
        torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(taken)


class Joules:
    """The energy counter of the first GPU: whole board, since the driver was loaded, in millijoules."""

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml, self._board = pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)

    def read(self) -> float:
        """Return joules."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board)) / 1e3

    def idle_watts(self, seconds: float = 4.0) -> float:
        """Return what the board draws with a context and no work."""
        torch.cuda.synchronize()
        time.sleep(1.0)
        begin, joules = time.perf_counter(), self.read()
        time.sleep(seconds)
        return (self.read() - joules) / (time.perf_counter() - begin)

    def of(self, paint: Paint, idle: float, seconds: float) -> tuple[float, float]:
        """Return joules per picture above the idle draw, and in all."""
        pictures, begin, joules = 0, time.perf_counter(), self.read()
        while time.perf_counter() < begin + seconds:
            paint()
            torch.cuda.synchronize()
            pictures += 1
        spent, took = self.read() - joules, time.perf_counter() - begin
        return (spent - idle * took) / pictures, spent / pictures


def decibel(image: Tensor, reference: Tensor) -> float:
    """Return the PSNR of pictures in [-1, 1]."""
    error = (image.double() - reference.double()).square().mean().sqrt()
    return round(float(20 * torch.log10(2.0 / error)), 1)


def measure(engines: Mapping[str, Paint], rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Let the engines take turns; ratios are to the first, within a round."""
    joules = Joules()
    idle = joules.idle_watts()
    ms: dict[str, list[float]] = {name: [] for name in engines}
    energy: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, paint in engines.items():
            turn(paint, 0.3)
            ms[name].append(turn(paint, seconds))
            energy[name].append(joules.of(paint, idle, seconds))
    first = ms[next(iter(engines))]
    rows: dict[str, dict[str, Any]] = {"idle": {"watts": round(idle, 1)}}
    for name, found in ms.items():
        low, middle, high = statistics.quantiles((a / b for a, b in zip(found, first, strict=True)), n=4)
        net, gross = (statistics.median(values) for values in zip(*energy[name], strict=True))
        rows[name] = {
            "ms": round(statistics.median(found), 2),
            "ratio": [round(value, 3) for value in (middle, low, high)],
            "joules": round(net, 3),
            "joules_gross": round(gross, 3),
        }
    return rows


class Contestants:
    """The engines that could be made, by name, and what each took or why it isn't there."""

    def __init__(self) -> None:
        self.paint: dict[str, Paint] = {}
        self.pictures: dict[str, Tensor] = {}
        self.remarks: dict[str, str] = {}

    def add(self, name: str, make: Callable[[], Paint]) -> None:
        """Make one and paint its first picture; a refusal is part of the result."""
        begin = time.perf_counter()
        try:
            with torch.no_grad():
                paint = make()
                self.pictures[name] = paint().clone().float()
        except (RuntimeError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
            # What follows is a path of the machine.
            said = str(error).splitlines()[0].split(" Stack trace")[0]
            self.remarks[name] = f"refused: {type(error).__name__}: {said}"
        else:
            self.paint[name] = paint
            self.remarks[name] = f"{time.perf_counter() - begin:.1f} s to the first picture"
        print(f"{name}: {self.remarks[name]}", file=sys.stderr, flush=True)


def compiled(pipeline: Any) -> Any:
    """Return a pipeline whose UNet and decoder go through torch.compile, as diffusers' documentation has it.

    Text encoders don't: transformers records their states in a way that such a recording overwrites (SDXL's fail).
    """
    pipeline.unet.compile(mode="reduce-overhead")
    pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode="reduce-overhead")
    return pipeline


def contest(
    model: ConsistencyModel, pipelines: Mapping[str, Any], steps: int, compile_graph: bool
) -> tuple[Contestants, dict[str, Any]]:
    """Make all engines that paint a picture in so many steps."""
    assert model.tokenizer is not None
    noise, renoise = noises((1, model.space.channels, model.space.height, model.space.width), steps)
    inputs = {"noise": noise, "tokens": torch.tensor([model.tokenizer.encode(PROMPT)])}
    if steps > 1:
        inputs["renoise"] = renoise
    inputs = {name: value.cuda() for name, value in inputs.items()}
    found = Contestants()
    for name, pipeline in pipelines.items():
        found.add(name, lambda pipeline=pipeline: by_pipeline(pipeline, steps, noise, renoise))
    begin = time.perf_counter()
    module = graph_of(model, steps)
    facts = {"graph_made_s": round(time.perf_counter() - begin, 1)}
    given = {n.name: inputs[n.name] for n in module.graph.nodes if n.op == "placeholder"}
    module = halved(module.cuda(), given)
    facts["operations"] = sum(n.op == "call_function" for n in module.graph.nodes)
    found.add("graph", lambda: lambda: module(**given))
    found.add("graph, recorded", lambda: recorded(lambda: module(**given)))
    last = {n: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for n, v in given.items()}
    tiled = copy.deepcopy(module).to(memory_format=torch.channels_last)
    found.add("graph, channels last, recorded", lambda: recorded(lambda: tiled(**last)))
    if compile_graph:
        fast = torch.compile(module, mode="reduce-overhead")
        found.add("graph, torch.compile", lambda: lambda: fast(**given))
    return found, facts


def main() -> None:
    """Measure each number of steps and print its line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", type=Path, help="a folder of diffusers")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--compile", type=int, nargs="*", default=[], help="steps whose graph torch.compile gets, too")
    parser.add_argument("--side", type=int, help="of the latents")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    size = {} if asked.side is None else {"image_size": str(8 * asked.side)}
    model = load_checkpoint(asked.pipeline, size)
    plain, last, fast = (pipeline_of(asked.pipeline) for _ in range(3))
    last.unet.to(memory_format=torch.channels_last)
    last.vae.to(memory_format=torch.channels_last)
    fast.unet.to(memory_format=torch.channels_last)
    fast.vae.to(memory_format=torch.channels_last)
    pipelines = {
        "pipeline": plain,
        "pipeline, channels last": last,
        "pipeline, channels last, torch.compile": compiled(fast),
    }
    for steps in asked.steps:
        found, facts = contest(model, pipelines, steps, steps in asked.compile)
        # diffusers gives [0, 1].
        reference = 2.0 * found.pictures["pipeline"] - 1.0
        rows = measure(found.paint, asked.rounds, asked.seconds)
        for name, image in found.pictures.items():
            scaled = image if name.startswith("graph") else 2.0 * image - 1.0
            if name != "pipeline":
                rows[name]["db_to_pipeline"] = decibel(scaled, reference)
        about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "pipeline": asked.pipeline.name}
        about |= {"steps": steps, "pixels": 8 * model.space.height}
        print(json.dumps({**about, **facts, "rows": rows, "remarks": found.remarks}), flush=True)
        del found
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
