"""Tiny random networks, and a float64 oracle that shares nothing with the graph code."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import math

import pytest
import torch
from support.networks import model_around, random_weights
from torch import nn

from cmexport.graph.capture import capture
from cmexport.graph.evaluate import unclamped_picture
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.sampling.methods import resolve


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def adm_model():
    """A function: a model around a small random ADM UNet, from fields of its configuration.

    Equal fields give the same model unless it is to be `fresh`, which a test that changes weights asks for.
    """
    made = {}

    def build(fresh=False, **fields):
        key = tuple(sorted(fields.items()))
        if fresh or key not in made:
            made[key] = create(**fields)
        return made.pop(key) if fresh else made[key]

    def create(seed=0, **fields):
        config = {
            "image_size": 8,
            "model_channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_downsampling": (2,),
            "num_head_channels": 32,
            "num_classes": 10,
            **fields,
        }
        network = random_weights(AdmUnet(AdmUnetConfig(**config)), seed)
        return model_around(network, config["image_size"], config["num_classes"])

    return build


class DiffusersNetwork(nn.Module):
    """diffusers' UNet2DModel under the package's calling convention."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, c_noise, label=None):
        return self.unet(x, c_noise, class_labels=label, return_dict=False)[0]

    def exact(self):
        """A float64 copy. diffusers computes the sinusoid in float32 whatever the weights are; here it is float64."""
        twin = copy.deepcopy(self).double()
        twin.unet.time_proj = Sinusoid(self.unet.config.block_out_channels[0])
        return twin


class Sinusoid(nn.Module):
    """[cos, sin] of c_noise * 10000^(-i / half), in float64."""

    def __init__(self, channels):
        super().__init__()
        self.half = channels // 2

    def forward(self, c_noise):
        frequencies = torch.tensor([10000.0 ** (-i / self.half) for i in range(self.half)], dtype=torch.float64)
        angles = c_noise.double()[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)


@pytest.fixture(scope="session")
def diffusers_model():
    """A function: a model around a small random diffusers UNet2DModel."""
    diffusers = pytest.importorskip("diffusers")

    def build(seed=0, classes=None, **fields):
        unet = diffusers.UNet2DModel(
            **{
                "sample_size": 8,
                "block_out_channels": (32, 64),
                "layers_per_block": 1,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
                "attention_head_dim": 16,
                "num_class_embeds": classes,
                **fields,
            }
        )
        return model_around(DiffusersNetwork(random_weights(unet, seed)), 8, classes)

    return build


@pytest.fixture(scope="session")
def captured():
    """A function: capture a model for a request; once for each pair, since nothing may change a capture."""
    made = {}

    def run(model, request=None):
        request = request or SampleRequest()
        key = id(model), request
        if key not in made:
            # The model is kept too, so that its id stays taken.
            made[key] = model, capture(resolve(model, request))
        return made[key][1]

    return run


@pytest.fixture(scope="session")
def exact_picture():
    """A function: the sampler from its equations around `network.double()`, before the last clamp."""

    def run(model, request, inputs):
        network = model.network.exact() if hasattr(model.network, "exact") else copy.deepcopy(model.network).double()
        e, d = model.noise.sigma_min, model.noise.sigma_data
        label = inputs.get("label")
        if request.label is not None:
            label = torch.full((request.batch,), request.label)

        def f(x, s):
            c_noise = torch.tensor([250.0 * math.log(s)], dtype=torch.float64)
            arguments = (x / math.sqrt(s**2 + d**2), c_noise) + (() if label is None else (label,))
            c_skip, c_out = d**2 / ((s - e) ** 2 + d**2), (s - e) * d / math.sqrt(s**2 + d**2)
            return c_skip * x + c_out * network(*arguments)

        sigmas = request.sigmas or (model.noise.sigma_max,)
        with torch.no_grad():
            image = f(sigmas[0] * inputs["noise"].double(), sigmas[0])
            for z, s in zip(inputs.get("renoise", ()), sigmas[1:], strict=True):
                image = f(image.clamp(-1.0, 1.0) + math.sqrt(s**2 - e**2) * z.double(), s)
        return image

    return run


@pytest.fixture(scope="session")
def relative_error():
    """A function: largest difference of a program's picture in float64 from the oracle's, over its largest pixel."""

    def measure(captured, expected, inputs):
        got = unclamped_picture(to_module(captured.program), inputs)
        assert got.dtype is torch.float64
        assert got.shape == expected.shape
        return float((got - expected).abs().max() / expected.abs().max())

    return measure
