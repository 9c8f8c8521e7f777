"""Make the files of a case: `python -m benchmarks.harness.prepare SUBJECT BATCH FOLDER NAME...`.

A process of its own, so that its memory is free again before anything is measured. Names: `work`, `pipeline`,
`naive-diffusers`, `naive-onnxsim`, `naive-ours`, `fp32`, `fp16`, `fp32-label`, `openvino`. Each ends up in FOLDER under
its name (`specs.path_of`); a made file is not made again. FOLDER/work.json tells the parent what it can't know without
torch.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from benchmarks.harness.diffusers_unet import unet_arguments, unet_state
from benchmarks.harness.specs import HostLoop, path_of
from benchmarks.harness.subjects import SUBJECTS
from benchmarks.harness.work import measure_work
from cmexport.checkpoints import load_checkpoint
from cmexport.graph.capture import CapturedGraph, capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.onnxfile.simplifying import onnxsim
from cmexport.sampling.methods import resolve
from cmexport.sampling.schedules import plan_sampling
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.providers import OPSET
from cmexport.targets.registry import target_named

Maker = Callable[[ConsistencyModel, int, Path], None]


def diffusers_unet(model: ConsistencyModel) -> Any:
    """diffusers' UNet2DModel with the model's weights."""
    from diffusers import UNet2DModel

    assert isinstance(model.network, AdmUnet)
    config = model.network.config
    unet = UNet2DModel(**unet_arguments(config))
    unet.load_state_dict(unet_state(config, model.network.state_dict()), strict=True, assign=True)
    return unet.eval().requires_grad_(False)


class _Sample(nn.Module):
    """UNet2DModel returning a tensor: the exporter can't put its output class at the border of a graph."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Any, timestep: Any, class_labels: Any = None) -> Any:
        return self.unet(sample, timestep, class_labels, return_dict=False)[0]


def _naive(network: nn.Module, model: ConsistencyModel, batch: int, path: Path, names: list[str]) -> None:
    """`torch.onnx.export` as its documentation shows it, of the network alone, with a static batch."""
    c_noise = plan_sampling(model).evaluations[0].c_noise
    exact = names[1] == "c_noise"  # our network computes its time embedding in float64, diffusers in float32
    time = torch.tensor([c_noise], dtype=torch.float64 if exact else torch.float32)
    inputs = [torch.randn(batch, model.channels, model.space.height, model.space.width), time]
    if model.classes is not None:
        inputs.append(torch.zeros(batch, dtype=torch.int64))
    torch.onnx.export(
        network.eval().requires_grad_(False),
        tuple(inputs),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=names[: len(inputs)],
        # One file, as ours: load times would otherwise compare ways of storing weights.
        external_data=False,
        verbose=False,
    )


def _naive_diffusers(model: ConsistencyModel, batch: int, path: Path) -> None:
    _naive(_Sample(diffusers_unet(model)), model, batch, path, ["sample", "timestep", "class_labels"])


def _naive_onnxsim(model: ConsistencyModel, batch: int, path: Path) -> None:
    """What one reads everywhere to do after exporting: `onnxsim model.onnx model.onnx`, as it comes."""
    with tempfile.TemporaryDirectory(dir=path.parent) as staging:
        naive = Path(staging) / "naive.onnx"
        _naive_diffusers(model, batch, naive)
        simplified, _ = onnxsim().simplify(str(naive))
    onnx.save(simplified, path)


def _naive_ours(model: ConsistencyModel, batch: int, path: Path) -> None:
    _naive(model.network, model, batch, path, ["x", "c_noise", "label"])


def _pipeline(model: ConsistencyModel, _batch: int, path: Path) -> None:
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline

    noise = model.noise
    scheduler = CMStochasticIterativeScheduler(
        num_train_timesteps=noise.levels,
        sigma_min=noise.sigma_min,
        sigma_max=noise.sigma_max,
        sigma_data=noise.sigma_data,
        rho=noise.rho,
        clip_denoised=model.clamp,
    )
    ConsistencyModelPipeline(diffusers_unet(model), scheduler).save_pretrained(path)


class Exports:
    """Our files. Capture and rewriting are shared by those that differ in lowering only, as one process makes many."""

    def __init__(self) -> None:
        self._rewritten: dict[int | None, CapturedGraph] = {}

    def write(
        self, model: ConsistencyModel, batch: int, path: Path, *, lowering: OnnxOptions, label: int | None = None
    ) -> None:
        """The steps of `cmexport.exporting.export_model` without verification: the harness compares pictures itself."""
        if label not in self._rewritten:
            request = SampleRequest(batch=batch, label=label)
            captured = capture(resolve(model, request))
            self._rewritten[label] = apply_rewrites(captured, REWRITES)
        with tempfile.TemporaryDirectory(dir=path.parent) as staging:
            lowered = target_named("onnx").lower_one(self._rewritten[label], lowering, Path(staging), lambda _: None)
            (Path(staging) / lowered.files[0]).rename(path)


def _work(model: ConsistencyModel, batch: int, path: Path) -> None:
    flops, products = measure_work(model, batch)
    plan = plan_sampling(model)
    first = plan.evaluations[0]
    loop = HostLoop(first.sigma, first.c_skip, first.c_out, first.c_in, first.c_noise, plan.clamp)
    facts = {
        "parameters": model.parameters,
        "shape": [batch, model.channels, model.space.height, model.space.width],
        "classes": model.classes,
        "flops": flops.model_dump(),
        "products": [[*shape, count] for shape, count in products.items()],
        "loop": asdict(loop),
    }
    path.write_text(json.dumps(facts), encoding="utf-8")


def makers(exports: Exports) -> Mapping[str, Maker]:
    """What can be made, by name."""
    return {
        "work": _work,
        "pipeline": _pipeline,
        "naive-diffusers": _naive_diffusers,
        "naive-onnxsim": _naive_onnxsim,
        "naive-ours": _naive_ours,
        "fp32": partial(exports.write, lowering=OnnxOptions()),
        "fp16": partial(exports.write, lowering=OnnxOptions(precision="fp16")),
        "openvino": partial(exports.write, lowering=OnnxOptions(ep="openvino")),
        "fp32-label": partial(exports.write, lowering=OnnxOptions(), label=0),
    }


def main() -> None:
    subject, batch, folder = SUBJECTS[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    known = makers(Exports())
    for name in sys.argv[4:]:
        target = path_of(folder, name)
        if not target.exists():
            # Read again for each: an export may leave traces in the network it was given.
            model = load_checkpoint(subject.checkpoint(folder), subject.overrides)
            known[name](model, batch, target)


if __name__ == "__main__":
    main()
