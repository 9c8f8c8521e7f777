"""The sampler against Algorithm 1 written down independently in numpy, and against diffusers' pipeline."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, SampleRequest, Space, class_labels
from cmexport.sampling.denoiser import denoise
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.samplers import SamplerGraph, to_bytes
from cmexport.sampling.schedules import karras_levels

OPENAI = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=40)


class Toy(nn.Module):
    """A network simple enough to write down twice, and sensitive to each of its inputs."""

    def forward(self, x, c_noise, label=None):
        phase = torch.cos(c_noise / 100.0).to(x.dtype)[:, None, None, None]
        shift = 0.0 if label is None else 0.25 * label.to(x.dtype)[:, None, None, None]
        return torch.tanh(1.3 * x.flip(-1) + phase + shift)


def toy_in_numpy(x, c_noise, label):
    shift = 0.0 if label is None else 0.25 * label[:, None, None, None]
    return np.tanh(1.3 * x[..., ::-1] + math.cos(c_noise / 100.0) + shift)


def model(**fields):
    defaults = {
        "network": Toy(),
        "architecture": {},
        "space": Space(3, 8, 8),
        "preconditioning": "cm",
        "c_noise": "250ln",
        "noise": OPENAI,
        "conditions": (),
        "renoise": "cm",
        "clamp": True,
        "source": CheckpointSource(Path("toy.pt"), "toy", "0" * 64, 1),
    }
    return ConsistencyModel(**{**defaults, **fields})


def algorithm_1(sigmas, noise, renoise, label, *, preconditioning, rule, clamp):
    """Song et al. 2023, algorithm 1, in float64, from the equations and with nothing of the package."""
    e, d = 0.002, 0.5

    def f(x, s):
        above = s - e if preconditioning == "cm" else s
        c_skip = d**2 / (above**2 + d**2)
        c_out = above * d / math.sqrt(s**2 + d**2)
        image = c_skip * x + c_out * toy_in_numpy(x / math.sqrt(s**2 + d**2), 250.0 * math.log(s), label)
        return np.clip(image, -1.0, 1.0) if clamp else image

    image = f(sigmas[0] * noise, sigmas[0])
    for z, tau in zip(renoise, sigmas[1:], strict=True):
        image = f(image + (math.sqrt(tau**2 - e**2) if rule == "cm" else tau) * z, tau)
    return image


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


@settings(max_examples=60, deadline=None)
@given(
    indices=st.lists(st.integers(0, 38), min_size=1, max_size=5, unique=True).map(sorted),
    batch=st.integers(1, 3),
    labelled=st.sampled_from(["no", "input", "baked"]),
    preconditioning=st.sampled_from(["cm", "edm"]),
    rule=st.sampled_from(["cm", "ect"]),
    clamp=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_sampler_is_algorithm_1(indices, batch, labelled, preconditioning, rule, clamp, seed):
    table = karras_levels(OPENAI, 40)
    sigmas = tuple(table[i] for i in indices)
    subject = model(
        preconditioning=preconditioning,
        renoise=rule,
        clamp=clamp,
        conditions=class_labels(None if labelled == "no" else 4),
    )
    request = SampleRequest(sigmas=sigmas, batch=batch, label=3 if labelled == "baked" else None)
    noise, renoise = draw((batch, 3, 8, 8), seed), draw((len(sigmas) - 1, batch, 3, 8, 8), seed + 1)
    label = {"no": None, "input": np.arange(batch) % 4, "baked": np.full(batch, 3)}[labelled]

    inputs = {"noise": noise}
    if len(sigmas) > 1:
        inputs["renoise"] = renoise
    if labelled == "input":
        inputs["label"] = label
    expected = algorithm_1(sigmas, noise, renoise, label, preconditioning=preconditioning, rule=rule, clamp=clamp)
    sampler = SamplerGraph(resolve(subject, request))
    with torch.no_grad():
        exact = sampler(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    assert exact.dtype is torch.float64
    np.testing.assert_allclose(exact.numpy(), expected, rtol=0, atol=1e-11)

    single = {name: v.astype(np.float32) if v.dtype == np.float64 else v for name, v in inputs.items()}
    with TorchRunner(resolve(subject, request)) as runner:
        image = runner(single)["image"]
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-5)


def test_one_step_is_the_denoiser_at_sigma_max():
    subject = model(clamp=False)
    noise = torch.from_numpy(draw((2, 3, 8, 8), 0))
    sampler = SamplerGraph(resolve(subject, SampleRequest(batch=2)))
    torch.testing.assert_close(sampler(noise), denoise(subject, 80.0 * noise, 80.0), rtol=0, atol=1e-13)


def test_the_denoiser_is_the_identity_at_sigma_min():
    x = torch.from_numpy(draw((1, 3, 8, 8), 0))
    assert torch.equal(denoise(model(), x, OPENAI.sigma_min), x)


def test_the_denoiser_refuses_a_network_that_changes_the_shape():
    class Wide(nn.Module):
        def forward(self, x, c_noise):
            return torch.cat([x, x], dim=1)

    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\) into \(1, 6, 8, 8\)"):
        denoise(model(network=Wide()), torch.zeros(1, 3, 8, 8), 80.0)


@settings(max_examples=30, deadline=None)
@given(image=arrays.arrays(np.float32, (2, 3, 4, 4), elements=st.floats(-1.5, 1.5, width=32)))
def test_bytes_are_the_nearest_level(image):
    got = to_bytes(torch.from_numpy(image))
    assert got.dtype is torch.uint8
    exact = np.clip((image.astype(np.float64) + 1.0) * 127.5, 0.0, 255.0).transpose(0, 2, 3, 1)
    # float32 arithmetic may sit 1e-5 beside the half-way point; anything else must be the nearest level.
    assert np.abs(got.numpy() - exact).max() <= 0.5 + 2e-5


def test_bytes_round_where_truncation_would_darken():
    levels = torch.arange(256, dtype=torch.float32)
    image = ((levels + 0.4) / 127.5 - 1.0).clamp(-1, 1).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(image).flatten(), levels.to(torch.uint8))
    image = ((levels - 0.4) / 127.5 - 1.0).clamp(-1, 1).reshape(1, 1, 16, 16)
    assert torch.equal(to_bytes(image).flatten(), levels.to(torch.uint8))


def test_bytes_come_in_the_layout_of_pictures():
    subject = model()
    request = SampleRequest(batch=2, output="uint8")
    noise = torch.from_numpy(draw((2, 3, 8, 8), 1)).float()
    got = SamplerGraph(resolve(subject, request))(noise)
    floats = SamplerGraph(resolve(subject, SampleRequest(batch=2)))(noise)
    assert got.shape == (2, 8, 8, 3)
    assert torch.equal(got, to_bytes(floats))


class Wrapped(nn.Module):
    """diffusers' UNet under the package's calling convention."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, c_noise, label=None):
        return self.unet(x, c_noise.to(x.dtype), class_labels=label).sample


@pytest.fixture(scope="module")
def pipeline():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=4,
        attention_head_dim=16,
    )
    pipe = diffusers.ConsistencyModelPipeline(
        unet=unet.eval().requires_grad_(False),
        scheduler=diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("timesteps", [None, [22, 0], [30, 22, 5, 0]], ids=["one step", "two steps", "four steps"])
def test_the_sampler_is_the_diffusers_pipeline(pipeline, timesteps):
    table = karras_levels(OPENAI, 40)
    sigmas = () if timesteps is None else tuple(table[t] for t in reversed(timesteps))
    steps = max(len(sigmas), 1)
    noise = torch.from_numpy(draw((2, 3, 16, 16), 2)).float()
    label = torch.tensor([3, 1])
    # Given latents, the pipeline draws nothing but one renoise per step (the last one times zero).
    drawing = torch.Generator().manual_seed(5)
    renoise = torch.stack([torch.randn(2, 3, 16, 16, generator=drawing) for _ in range(steps)])[: steps - 1]
    expected = pipeline(
        batch_size=2,
        class_labels=label,
        num_inference_steps=1 if timesteps is None else None,
        timesteps=timesteps,
        generator=torch.Generator().manual_seed(5),
        latents=noise.clone(),
        output_type="np",
    ).images
    subject = model(network=Wrapped(pipeline.unet), space=Space(3, 16, 16), conditions=class_labels(4))
    sampler = SamplerGraph(resolve(subject, SampleRequest(sigmas=sigmas, batch=2)))
    inputs = {"noise": noise, "label": label, **({"renoise": renoise} if steps > 1 else {})}
    with torch.no_grad():
        image = sampler(**inputs)
    got = (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
