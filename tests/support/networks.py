"""Small random networks as models, and one lowered to a file, for the tests of graphs and targets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.graph.capture import CapturedGraph, capture
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewriting import apply_rewrites
from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, SampleRequest, Space, class_labels
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.base import LoweredModel

NOISE = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=40)


SETTINGS = ("--set", "image_size=8", "--set", "num_head_channels=32", "--set", "qkv_order=thirds", "--set", "levels=40")
"""What the weights of `tiny_config` leave to guess, stated on the command line."""


def tiny_config(classes=3):
    """An ADM UNet of 8x8 pictures with attention and a skip: the smallest that has every kind of layer."""
    return AdmUnetConfig(
        image_size=8,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_downsampling=(2,),
        num_classes=classes,
        num_head_channels=32,
    )


def one_level(classes=3):
    """`tiny_config` without its second level, for tests of what is around a network: an export takes two thirds."""
    return replace(tiny_config(classes), channel_mult=(1,), attention_downsampling=(1,))


def noisy_checkpoint(path, config=None):
    """An OpenAI checkpoint at `path`, of one level by default, without layers of zeros, which nothing could spoil."""
    torch.manual_seed(0)
    state = AdmUnet(config or one_level()).state_dict()
    torch.save({k: v + 0.05 * torch.randn(v.shape) for k, v in state.items()}, path)
    return path


def random_weights(network, seed):
    """Every weight random, norms and biases too: default initialization hides swapped or ignored tensors."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        spread = 0.3 if tensor.dim() == 1 else 0.8 / max(tensor[0].numel(), 1) ** 0.5
        center = 1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0
        tensor.copy_(center + spread * torch.randn(tensor.shape, generator=generator))
    return network.eval().requires_grad_(False)


def model_around(network, image_size, classes, **fields):
    defaults = {
        "network": network,
        "architecture": {"name": type(network).__name__},
        "space": Space(fields.pop("channels", 3), *(image_size if isinstance(image_size, tuple) else [image_size] * 2)),
        "preconditioning": "cm",
        "c_noise": "250ln",
        "noise": NOISE,
        "conditions": class_labels(classes),
        "renoise": "cm",
        "clamp": True,
        "source": CheckpointSource(Path("tiny.pt"), "tiny", "0" * 64, 1),
    }
    return ConsistencyModel(**{**defaults, **fields})


@cache
def demo_graph(sigmas=()):
    """The demo model and its graph after the rewrites; for all tests, since nothing may change a graph."""
    model = load_checkpoint(demo_checkpoint())
    return model, apply_rewrites(capture(resolve(model, SampleRequest(sigmas=sigmas))), REWRITES)


@dataclass(frozen=True)
class Exported:
    """A written model with the one it came from."""

    model: ConsistencyModel
    request: SampleRequest
    captured: CapturedGraph
    lowered: LoweredModel
    folder: Path

    def inputs(self, seed=11):
        tensors = self.captured.examples(seed)
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def reference(self, inputs):
        with TorchRunner(resolve(self.model, self.request)) as run:
            return picture_of(run(inputs))
