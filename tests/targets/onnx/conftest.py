"""Tiny random networks, lowered once per request and run in ONNX Runtime."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.graph.capture import CapturedGraph, capture, example_tensors, trace
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import (
    CheckpointSource,
    Conditioning,
    ConsistencyModel,
    NoiseRange,
    SampleRequest,
    TensorSpec,
)
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.schedules import plan_sampling
from cmexport.targets.base import LoweredModel, LoweringOptions
from cmexport.targets.onnx.lower import lower
from cmexport.targets.onnx.runner import OnnxRuntimeRunner

NOISE = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=40)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def _random_weights(network, seed):
    """Every weight random, norms and biases too: default initialization hides swapped or ignored tensors."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        spread = 0.3 if tensor.dim() == 1 else 0.8 / max(tensor[0].numel(), 1) ** 0.5
        center = 1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0
        tensor.copy_(center + spread * torch.randn(tensor.shape, generator=generator))
    return network.eval().requires_grad_(False)


def model_around(network, image_size, classes):
    return ConsistencyModel(
        network=network,
        architecture={"name": type(network).__name__},
        channels=3,
        image_size=image_size,
        preconditioning="cm",
        c_noise="250ln",
        noise=NOISE,
        conditioning=Conditioning(classes),
        renoise="cm",
        clamp=True,
        source=CheckpointSource(Path("tiny.pt"), "tiny", "0" * 64, 1),
    )


@dataclass(frozen=True)
class Exported:
    """A written file with the model it came from."""

    model: ConsistencyModel
    request: SampleRequest
    captured: CapturedGraph
    lowered: LoweredModel
    folder: Path

    @property
    def path(self):
        return self.folder / self.lowered.files[0]

    @property
    def proto(self):
        return onnx.load(self.path)

    def inputs(self, seed=11):
        tensors = example_tensors(self.captured.inputs, self.captured.classes, seed)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def reference(self, inputs):
        plan = plan_sampling(self.model, self.request.sigmas)
        with TorchRunner(self.model, plan, self.request) as run:
            return run(inputs)["image"]

    def run(self, inputs, optimization="all"):
        with OnnxRuntimeRunner(self.path, optimization, threads=1) as run:
            return run(inputs)["image"]


def _unet(fields):
    return AdmUnetConfig(
        **{
            "image_size": 8,
            "model_channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_downsampling": (2,),
            "num_head_channels": 32,
            "num_classes": 10,
            **fields,
        }
    )


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """A function: an ADM UNet with these fields, lowered with these options; once for equal arguments."""
    models, captures, made = {}, {}, {}

    def run(request=None, options=None, network=None, **fields):
        request, options = request or SampleRequest(), options or LoweringOptions()
        which = network if network is not None else tuple(sorted(fields.items()))
        if which not in models:
            config = _unet(fields)
            models[which] = model_around(
                network if network is not None else _random_weights(AdmUnet(config), 0),
                config.image_size,
                config.num_classes,
            )
        model = models[which]
        plain = options.rewrites == "none"
        if (which, request, plain) not in captures:
            graph = capture(model, plan_sampling(model, request.sigmas), request)
            captures[which, request, plain] = apply_rewrites(graph, () if plain else REWRITES)
        captured = captures[which, request, plain]
        if (which, request, options) not in made:
            folder = tmp_path_factory.mktemp("onnx")
            lowered = lower(captured, options, folder, lambda _: None)
            made[which, request, options] = Exported(model, request, captured, lowered, folder)
        return made[which, request, options]

    return run


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A function: the packaged demo model, lowered for the CPU at a precision."""
    model = load_checkpoint(demo_checkpoint())
    request = SampleRequest()
    captured = apply_rewrites(capture(model, plan_sampling(model), request), REWRITES)
    made = {}

    def run(precision):
        if precision not in made:
            folder = tmp_path_factory.mktemp("demo")
            lowered = lower(captured, LoweringOptions(precision=precision), folder, lambda _: None)
            made[precision] = Exported(model, request, captured, lowered, folder)
        return made[precision]

    return run


@pytest.fixture(scope="session")
def toy():
    """A function: any module of one float input `noise`, captured as a graph of its own."""

    def run(module, noise):
        program = trace(module.eval().requires_grad_(False), {"noise": noise})
        shape = tuple(module(noise).shape)
        return CapturedGraph(
            program=program,
            inputs=(TensorSpec("noise", tuple(noise.shape), "float32"),),
            outputs=(TensorSpec("image", shape, "float32"),),
            classes=None,
        )

    return run


@pytest.fixture(scope="session")
def psnr():
    """A function: PSNR in dB of pictures that span 2."""

    def measure(reference, candidate):
        assert reference.shape == candidate.shape
        assert np.isfinite(candidate).all()
        mse = float(np.mean((reference.astype(np.float64) - candidate.astype(np.float64)) ** 2))
        return math.inf if mse == 0 else 10 * math.log10(4.0 / mse)

    return measure
