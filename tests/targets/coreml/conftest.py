"""Tiny random networks, lowered once per request, and a look into the written package that shares nothing with ours."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools")

from cmexport.graph.capture import CapturedGraph, capture, example_tensors, trace
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import CheckpointSource, Conditioning, ConsistencyModel, NoiseRange, SampleRequest, TensorSpec
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.schedules import plan_sampling
from cmexport.targets.base import LoweredModel, LoweringOptions
from cmexport.targets.coreml.lower import lower
from cmexport.targets.coreml.runner import ExecutorRunner

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


def model_around(network, image_size, classes, channels=3):
    return ConsistencyModel(
        network=network,
        architecture={"name": type(network).__name__},
        channels=channels,
        image_size=image_size,
        preconditioning="cm",
        c_noise="250ln",
        noise=NOISE,
        conditioning=Conditioning(classes),
        renoise="cm",
        clamp=True,
        source=CheckpointSource(Path("tiny.pt"), "tiny", "0" * 64, 1),
    )


def specification(package):
    """The package's protobuf message, by coremltools' own classes."""
    from coremltools.proto import Model_pb2

    message = Model_pb2.Model()
    message.ParseFromString((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    return message


def operations(package, function="main"):
    """(type, output shapes, output types) of every operation but constants."""
    (block,) = specification(package).mlProgram.functions[function].block_specializations.values()
    found = []
    for op in block.operations:
        types = [o.type.tensorType for o in op.outputs]
        shapes = [tuple(d.constant.size for d in t.dimensions) for t in types]
        if op.type != "const":
            found.append((op.type, shapes, [t.dataType for t in types]))
    return found


@dataclass(frozen=True)
class Exported:
    """A written package with the model it came from."""

    model: ConsistencyModel
    request: SampleRequest
    captured: CapturedGraph
    lowered: LoweredModel
    folder: Path

    @property
    def package(self):
        return self.folder / "model.mlpackage"

    @property
    def counts(self):
        return Counter(kind for kind, _, _ in operations(self.package))

    def inputs(self, seed=11):
        tensors = example_tensors(self.captured.inputs, self.captured.classes, seed)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def reference(self, inputs):
        plan = plan_sampling(self.model, self.request.sigmas)
        with TorchRunner(self.model, plan, self.request) as run:
            return run(inputs)["image"]

    def run(self, inputs, mode="ideal"):
        with ExecutorRunner(self.package, mode=mode) as run:
            return run(inputs)["image"]


@pytest.fixture(scope="session")
def small_model():
    """A function: a model around an ADM UNet with these fields; once for equal ones."""
    made = {}

    def build(**fields):
        key = tuple(sorted(fields.items()))
        if key not in made:
            config = AdmUnetConfig(
                **{
                    "image_size": 8,
                    "model_channels": 32,
                    "channel_mult": (1, 2),
                    "num_res_blocks": 1,
                    "attention_downsampling": (),
                    "num_head_channels": 32,
                    "num_classes": 10,
                    **fields,
                }
            )
            network = _random_weights(AdmUnet(config), 0)
            made[key] = model_around(network, config.image_size, config.num_classes, config.in_channels)
        return made[key]

    return build


@pytest.fixture(scope="session")
def rewritten(small_model):
    """A function: the captured graph of a request after the general rewrites, with its model."""
    made = {}

    def build(request, **fields):
        key = request, tuple(sorted(fields.items()))
        if key not in made:
            model = small_model(**fields)
            made[key] = model, apply_rewrites(capture(model, plan_sampling(model, request.sigmas), request), REWRITES)
        return made[key]

    return build


@pytest.fixture(scope="session")
def export(rewritten, tmp_path_factory):
    """A function: a small network lowered with these options; once for equal arguments."""
    made = {}

    def run(request=None, options=None, **fields):
        request, options = request or SampleRequest(), options or LoweringOptions()
        key = request, options, tuple(sorted(fields.items()))
        if key not in made:
            model, captured = rewritten(request, **fields)
            folder = tmp_path_factory.mktemp("coreml")
            lowered = lower(captured, options, folder, lambda _: None)
            made[key] = Exported(model, request, captured, lowered, folder)
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


@pytest.fixture(scope="session")
def spec():
    """See `specification`."""
    return specification


@pytest.fixture(scope="session")
def ops_of():
    """See `operations`."""
    return operations
