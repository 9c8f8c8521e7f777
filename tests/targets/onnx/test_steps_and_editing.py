"""Written files with several steps and every task, against float64 loops and diffusers' own pipeline."""

from __future__ import annotations

import copy
import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.networks import model_around
from torch import nn

from cmexport.model import SampleRequest
from cmexport.sampling.schedules import karras_levels, sigmas_for_steps
from cmexport.targets.onnx.info import OnnxOptions

E, D, PATCH = 0.002, 0.5, 4
LUMA = np.array([0.2989, 0.5870, 0.1140])


def request_for(task, steps=2, **fields):
    sigmas = (1.4,) if task == "denoise" else (80.0, 9.0, 1.4, 0.3)[:steps]
    return SampleRequest(sigmas=sigmas, task=task, patch=PATCH if task == "superres" else None, **fields)


def inputs_of(exported, seed=3):
    rng = np.random.default_rng(seed)
    made = {}
    for spec in exported.captured.signature.inputs:
        made[spec.name] = rng.standard_normal(spec.shape).astype(np.float32)
        if spec.name == "label":
            made[spec.name] = rng.integers(0, 10, spec.shape)
        if spec.name == "mask":
            made[spec.name] = (made[spec.name] > 0).astype(np.float32)
        if spec.name == "image":
            made[spec.name] = made[spec.name].clip(-1, 1)
    return made


def loop(exported, inputs):
    """Algorithms 1 and 4 in float64 around `network.double()`; the projections are matrices over colours and blocks."""
    task, size = exported.request.task, exported.model.image_size
    network = copy.deepcopy(exported.model.network).double()
    values = {n: torch.from_numpy(v) for n, v in inputs.items()}
    label, y = values.get("label"), values["image"].double() if "image" in values else None
    colour = torch.from_numpy(np.outer(LUMA, LUMA) / (LUMA @ LUMA))
    block = torch.block_diag(*[torch.full((PATCH, PATCH), 1.0 / PATCH, dtype=torch.float64)] * (size // PATCH))

    def project(x):
        if task == "inpaint":
            return values["mask"].double() * x
        if task == "colorize":
            return torch.einsum("ij,njhw->nihw", colour, x)
        return block @ x @ block

    def f(x, s):
        arguments = (x / math.sqrt(s**2 + D**2), torch.tensor([250.0 * math.log(s)], dtype=torch.float64))
        c_skip, c_out = D**2 / ((s - E) ** 2 + D**2), (s - E) * D / math.sqrt(s**2 + D**2)
        return (c_skip * x + c_out * network(*arguments, *(() if label is None else (label,)))).clamp(-1.0, 1.0)

    def replace(x):
        return x if task in ("generate", "stroke", "denoise") else project(y) + x - project(x)

    sigmas = exported.request.sigmas
    with torch.no_grad():
        if task == "denoise":
            start = y
        else:
            known = 0.0 if task == "generate" else y if task == "stroke" else project(y)
            start = known + sigmas[0] * values["noise"].double()
        x = replace(f(start, sigmas[0]))
        for z, s in zip(values.get("renoise", ()), sigmas[1:], strict=True):
            x = replace(f(x + math.sqrt(s**2 - E**2) * z.double(), s))
    return x.numpy()


TASKS = ["generate", "inpaint", "colorize", "superres", "stroke", "denoise"]


@pytest.mark.parametrize("optimization", ["none", "all"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_its_float64_loop(export, task, optimization):
    exported = export(request_for(task, batch=2))
    inputs = inputs_of(exported)
    expected, image = loop(exported, inputs), exported.run(inputs, optimization)
    assert np.abs(image - expected).max() <= 1e-5
    assert np.std(expected) > 0.1
    if task == "inpaint":
        kept = np.broadcast_to(inputs["mask"] == 1.0, image.shape)
        assert np.array_equal(image[kept], inputs["image"][kept])
    if task == "colorize":
        grey = [np.einsum("c,nchw->nhw", LUMA, x) for x in (image, inputs["image"])]
        assert np.abs(grey[0] - grey[1]).max() <= 1e-3
    if task == "superres":
        means = [x.reshape(2, 3, 8 // PATCH, PATCH, 8 // PATCH, PATCH).mean((3, 5)) for x in (image, inputs["image"])]
        assert np.abs(means[0] - means[1]).max() <= 1e-3


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_k_steps_are_their_float64_loop_in_a_file_hardly_larger(export, steps):
    one, many = export(request_for("generate", 1, batch=2)), export(request_for("generate", steps, batch=2))
    inputs = inputs_of(many)
    assert np.abs(many.run(inputs) - loop(many, inputs)).max() <= 1e-5
    weights = [sum(np.prod(i.dims) for i in e.proto.graph.initializer) for e in (one, many)]
    # Embeddings of each level become constants of their own; the network's weights are there once.
    assert weights[1] <= weights[0] * (1 + 0.02 * (steps - 1))


@pytest.mark.parametrize("task", ["inpaint", "colorize", "superres"])
def test_half_precision_stays_inside_its_gate(export, psnr, task):
    exported = export(request_for(task, batch=2), OnnxOptions(precision="fp16"))
    inputs = inputs_of(exported)
    assert psnr(loop(exported, inputs), exported.run(inputs)) >= 60.0


@pytest.mark.parametrize("task", ["inpaint", "denoise"])
def test_the_names_at_the_border_of_the_file(export, task):
    exported = export(request_for(task, batch=2))
    session = ort.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(exported.captured.signature.names)
    assert [o.name for o in session.get_outputs()] == ["edited"]
    assert {i.type for i in session.get_inputs() if i.name != "label"} == {"tensor(float)"}


@pytest.mark.parametrize("task", TASKS)
def test_no_tensor_in_the_file_but_renoise_has_more_than_four_axes(export, task):
    shaped = onnx.shape_inference.infer_shapes(export(request_for(task, batch=2)).proto)
    values = [*shaped.graph.value_info, *shaped.graph.input, *shaped.graph.output]
    assert {v.name for v in values if len(v.type.tensor_type.shape.dim) > 4} <= {"renoise"}


class Wrapped(nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, c_noise, label=None):
        return self.unet(x, c_noise, class_labels=label, return_dict=False)[0]


@pytest.mark.parametrize(("timesteps", "steps"), [(None, 1), (None, 2), (None, 4), ([22, 0], 2)])
def test_k_steps_are_diffusers_pipeline(export, unet, monkeypatch, timesteps, steps):
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_consistency_models as module

    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40)
    pipeline = diffusers.ConsistencyModelPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    network = unet_networks.setdefault(id(unet), Wrapped(unet))
    noise = model_around(network, 8, None).noise
    sigmas = sigmas_for_steps(noise, steps) if timesteps is None else (80.0, karras_levels(noise, 40)[22])
    exported = export(SampleRequest(sigmas=sigmas), network=network, num_classes=None)
    inputs = inputs_of(exported)
    # The last step draws too, and multiplies by zero.
    draws = iter([*inputs.get("renoise", ()), np.zeros_like(inputs["noise"])])
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.from_numpy(next(draws)))
    made = pipeline(
        latents=torch.from_numpy(inputs["noise"]), num_inference_steps=steps, timesteps=timesteps, output_type="pt"
    )
    expected = made.images.numpy() * 2.0 - 1.0
    assert np.abs(exported.run(inputs) - expected).max() <= 1e-5
    assert np.std(expected) > 0.1


unet_networks: dict[int, Wrapped] = {}


@pytest.fixture(scope="module")
def unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
    )
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        spread = 0.1 if tensor.dim() == 1 else 0.8 / max(tensor[0].numel(), 1) ** 0.5
        tensor.add_(spread * torch.randn(tensor.shape, generator=generator))
    return network.eval().requires_grad_(False)


def test_a_label_that_comes_before_the_picture_changes_no_arithmetic(export):
    # "denoise" has `label` first and no `noise`: what is float32 in half precision goes by the picture's shape.
    requests = (SampleRequest(sigmas=(1.4,), task="denoise", label=label) for label in (None, 0))
    kept = [export(r, OnnxOptions(precision="fp16")).lowered.precision_plan["kept_float32"] for r in requests]
    assert kept[0] == kept[1]
