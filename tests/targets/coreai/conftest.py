"""Tiny random networks, lowered once per request. Nothing here imports Apple's packages by itself."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from cmexport.graph.capture import CapturedGraph, capture, example_tensors, trace
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import CheckpointSource, Conditioning, ConsistencyModel, NoiseRange, SampleRequest, TensorSpec
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.schedules import plan_sampling
from cmexport.targets.base import LoweredModel, LoweringOptions
from cmexport.targets.coreai.runner import CoreAiRunner
from cmexport.targets.coreai.target import CoreAiTarget

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


def _model(classes):
    config = AdmUnetConfig(
        image_size=8,
        model_channels=32,
        # One resolution: the packaged model and the command line's tests have several.
        channel_mult=(1,),
        num_res_blocks=1,
        attention_downsampling=(1,),
        num_head_channels=32,
        num_classes=classes,
    )
    return ConsistencyModel(
        network=_random_weights(AdmUnet(config), 0),
        architecture={"name": "AdmUnet"},
        channels=3,
        image_size=8,
        preconditioning="cm",
        c_noise="250ln",
        noise=NOISE,
        conditioning=Conditioning(classes),
        renoise="cm",
        clamp=True,
        source=CheckpointSource(Path("tiny.pt"), "tiny", "0" * 64, 1),
    )


@dataclass(frozen=True)
class Written:
    """A written asset with the model it came from."""

    model: ConsistencyModel
    request: SampleRequest
    captured: CapturedGraph
    lowered: LoweredModel
    folder: Path

    @property
    def asset(self):
        return self.folder / "model.aimodel"

    def inputs(self, seed=11):
        tensors = example_tensors(self.captured.inputs, self.captured.classes, seed)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def reference(self, inputs):
        plan = plan_sampling(self.model, self.request.sigmas)
        with TorchRunner(self.model, plan, self.request) as run:
            return run(inputs)["image"]

    def run(self, inputs):
        with CoreAiRunner(self.asset) as run:
            return run(inputs)["image"]


@pytest.fixture(scope="session")
def write(tmp_path_factory):
    """A function: a small network lowered for a request; once for equal arguments."""
    made, models = {}, {}

    def run(request=None, precision="fp32", classes=10, rewrites=REWRITES):
        request = request or SampleRequest()
        key = request, precision, classes, len(rewrites)
        if key not in made:
            model = models.setdefault(classes, _model(classes))
            captured = apply_rewrites(capture(model, plan_sampling(model, request.sigmas), request), rewrites)
            folder = tmp_path_factory.mktemp("coreai")
            lowered = CoreAiTarget().lower(captured, LoweringOptions(precision=precision), folder, lambda _: None)
            made[key] = Written(model, request, captured, lowered, folder)
        return made[key]

    return run


@pytest.fixture(scope="session")
def toy():
    """A function: any module of float inputs by name, captured as a graph of its own."""

    def run(module, **inputs):
        program = trace(module.eval().requires_grad_(False), inputs)
        with torch.no_grad():
            shape = tuple(module(**inputs).shape)
        return CapturedGraph(
            program=program,
            inputs=tuple(TensorSpec(name, tuple(x.shape), str(x.dtype)[6:]) for name, x in inputs.items()),
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
