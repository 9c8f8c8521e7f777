"""float32 text-to-image files against diffusers' own pipeline: the same prompts and noise, the largest difference.

    python -m benchmarks.oracle_text_to_image --steps 1,2,4,8 --guidance 5

The packaged emoji model, drawn three times: by diffusers' LatentConsistencyModelPipeline, by our PyTorch reference and
by the exported file in ONNX Runtime. One step multiplies what the network rounds by 14.65, so float32 itself is a few
1e-4 from exact there: the picture in which two of them differ most is drawn in float64 as well, to tell whose rounding
it is. One JSON line for each number of steps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.graph.capture import CapturedGraph, capture
from cmexport.graph.exact import ExactRunner
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import SampleRequest
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.runner import Array, picture_of
from cmexport.sampling.methods import method_named, resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower
from cmexport.tokenizer import calibration_prompts

Draw = Callable[[Mapping[str, Array], str], Array]
"""A picture (1, 3, H, W) of inputs by name, and of the prompt that they hold as tokens."""


def drawn_by_diffusers(steps: int, guidance: float) -> Draw:
    """Return what draws with the library's pipeline and scheduler, with given noise."""
    import torch
    from diffusers import LatentConsistencyModelPipeline

    pipeline: Any = LatentConsistencyModelPipeline.from_pretrained(demo_checkpoint("emoji"), torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    module = importlib.import_module(type(pipeline.scheduler).__module__)
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt"}

    def draw(inputs: Mapping[str, Array], prompt: str) -> Array:
        noise = torch.from_numpy(inputs["noise"])
        later = [*torch.from_numpy(inputs["renoise"]), noise] if "renoise" in inputs else [noise]
        with patch.object(module, "randn_tensor", lambda *_, **__: later.pop(0)):
            images = pipeline(prompt=[prompt], latents=noise, **options).images
        drawn: Array = (images * 2 - 1).numpy()
        return drawn

    return draw


def written(captured: CapturedGraph, folder: Path) -> OnnxRuntimeRunner:
    """Export in float32 and open the file."""
    rewritten = apply_rewrites(captured, list(REWRITES), lambda _: None)
    lowered = lower(rewritten, OnnxOptions(), folder, lambda _: None)
    return OnnxRuntimeRunner(folder / lowered.files[0])


def compare(steps: int, guidance: float, pictures: int) -> dict[str, Any]:
    """Draw all pictures with all three, and the worst ones in float64 too."""
    model = load_checkpoint(demo_checkpoint("emoji"))
    schedule = method_named("consistency", "generate").spaced(model, steps, "generate", steps)
    sampler = resolve(model, SampleRequest(sigmas=schedule.sigmas, guidance=guidance))
    prompts, captured = calibration_prompts(), capture(sampler)
    with tempfile.TemporaryDirectory(prefix="cmexport-oracle-") as folder, written(captured, Path(folder)) as file:
        reference = TorchRunner(sampler)
        engines: dict[str, Draw] = {
            "diffusers": drawn_by_diffusers(steps, guidance),
            "reference": lambda inputs, _: picture_of(reference(inputs)),
            "onnx": lambda inputs, _: picture_of(file(inputs)),
        }
        inputs = [sampler.signature.draw(index) for index in range(pictures)]
        said = [prompts[index % len(prompts)] for index in range(pictures)]
        with reference:
            drawn = {n: [draw(x, p) for x, p in zip(inputs, said, strict=True)] for n, draw in engines.items()}
    exact: dict[int, Array] = {}
    facts: dict[str, Any] = {"steps": steps, "guidance": guidance, "pictures": pictures}
    for name in ("reference", "onnx"):
        apart = [_largest(a, b) for a, b in zip(drawn[name], drawn["diffusers"], strict=True)]
        worst = int(np.argmax(apart))
        if worst not in exact:
            with ExactRunner(captured) as precise:
                exact[worst] = picture_of(precise(inputs[worst]))
        ends = sorted(apart)
        facts[name] = {
            "max_abs": ends[-1],
            "next": ends[-2],
            "median": float(np.median(apart)),
            "prompt": said[worst],
            "from_float64": {n: _largest(found[worst], exact[worst]) for n, found in drawn.items()},
        }
    return facts


def _largest(first: Array, second: Array) -> float:
    return float(np.abs(first.astype(np.float64) - second).max())


def main() -> None:
    """Compare for every number of steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", default="1,2,4,8")
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--pictures", type=int, default=64)
    asked = parser.parse_args()
    for steps in asked.steps.split(","):
        print(json.dumps(compare(int(steps), asked.guidance, asked.pictures)), flush=True)


if __name__ == "__main__":
    main()
