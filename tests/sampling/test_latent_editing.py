"""Image to image and inpainting of latents: diffusers' pipelines edit the same pictures with the same noise."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn

from cmexport.alphas import AlphaSchedule
from cmexport.checkpoints.latent_codec import ENDS
from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, Codec, ConsistencyModel, SampleRequest, Space
from cmexport.sampling.alphas import noise_range
from cmexport.sampling.methods import resolve, schedule_of_strength
from cmexport.sampling.schedules import default_schedule, table_schedule

SIDE, FACTOR, BATCH, GUIDANCE = 32, 8, 2, 4.0
SCHEDULERS = {
    "lcm": diffusers.LCMScheduler(),
    "tcd": diffusers.TCDScheduler(),
    "euler": diffusers.EulerDiscreteScheduler(timestep_spacing="trailing", beta_schedule="scaled_linear"),
}
PIPELINES = {
    "stroke": "latent_consistency_models.pipeline_latent_consistency_img2img",
    "inpaint": "stable_diffusion.pipeline_stable_diffusion_inpaint",
}


class Around(nn.Module):
    """The UNet with what pipelines feed it besides."""

    def __init__(self, unet, prompt, guidance):
        super().__init__()
        self.unet, self.prompt, self.guidance = unet, prompt, guidance

    def forward(self, x, c_noise):
        prompt = self.prompt.expand(len(x), -1, -1)
        return self.unet(x, c_noise, encoder_hidden_states=prompt, timestep_cond=self.guidance).sample


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        time_cond_proj_dim=16,
    )
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    tiny = diffusers.AutoencoderTiny(
        **widths, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4, scaling_factor=1.3
    )
    kl = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
    )
    prompt = torch.randn(1, 5, 8, dtype=torch.float64)
    return unet.double().eval(), {"AutoencoderTiny": tiny.double().eval(), "AutoencoderKL": kl.double().eval()}, prompt


def model_of(parts, vae, kind):
    unet, vaes, prompt = parts
    scheduler = SCHEDULERS[kind]
    schedule = AlphaSchedule.from_config({**scheduler.config, "_class_name": type(scheduler).__name__}, Path("c"))
    embed = diffusers.LatentConsistencyModelImg2ImgPipeline.get_guidance_scale_embedding
    guidance = embed(None, torch.tensor([GUIDANCE - 1], dtype=torch.float64), 16, torch.float64)
    decoder, encoder = ENDS[vae](vaes[vae])
    return ConsistencyModel(
        network=Around(unet, prompt, guidance),
        architecture={},
        space=Space(4, SIDE // FACTOR, SIDE // FACTOR),
        preconditioning=schedule.kind,
        c_noise="timestep",
        noise=noise_range(schedule),
        conditions=(),
        renoise=schedule.kind,
        clamp=False,
        source=CheckpointSource(Path("toy"), "toy", "0" * 64, 1),
        codec=Codec(decoder, 3, FACTOR, vaes[vae].config.scaling_factor, 0.0, encoder),
        schedule=schedule,
    )


@pytest.fixture
def edited(parts, monkeypatch):
    """What diffusers' pipeline of a task makes of a picture, float64, noise by noise."""

    def run(task, vae, kind, inputs, schedule, **options):
        drawn = [inputs["noise"], *inputs.get("renoise", []), torch.zeros_like(inputs["noise"])]
        file = importlib.import_module(f"diffusers.pipelines.{PIPELINES[task]}")
        scheduler = type(SCHEDULERS[kind]).from_config(SCHEDULERS[kind].config)
        scheduler.alphas_cumprod = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
        for module in (file, importlib.import_module(type(scheduler).__module__)):
            monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: drawn.pop(0))
        # The mean of AutoencoderKL's spread, which diffusers would draw from.
        monkeypatch.setattr(file, "retrieve_latents", partial(file.retrieve_latents, sample_mode="argmax"))
        made = {"stroke": "LatentConsistencyModelImg2ImgPipeline", "inpaint": "StableDiffusionInpaintPipeline"}[task]
        unet, vaes, prompt = parts
        common = {"vae": vaes[vae], "text_encoder": None, "tokenizer": None, "unet": unet, "scheduler": scheduler}
        rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = getattr(diffusers, made)(**common, **rest)
        pipeline.set_progress_bar_config(disable=True)
        if "mask" in inputs:
            options |= {"mask_image": 1.0 - inputs["mask"], "height": SIDE, "width": SIDE}
        image = pipeline(
            image=(inputs["image"] + 1.0) / 2.0,
            prompt_embeds=prompt.expand(BATCH, -1, -1),
            guidance_scale=GUIDANCE,
            output_type="pt",
            **options,
        ).images
        return 2.0 * image - 1.0

    return run


def pictures(sampler, inputs):
    with torch.no_grad():
        return sampler.module()(**inputs)


def normal(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made_up(sampler):
    """Inputs in float64, whatever their names; pictures in [-1, 1], a mask of squares that are no multiple of 8."""
    inputs = {}
    for seed, each in enumerate(sampler.signature.inputs):
        inputs[each.name] = normal(*each.shape, seed=seed)
    inputs["image"] = inputs["image"].mul(0.4).clamp(-1.0, 1.0)
    if "mask" in inputs:
        inputs["mask"] = torch.zeros_like(inputs["mask"])
        inputs["mask"][:, :, 3:19, 5:30] = 1.0
    return inputs


@pytest.mark.parametrize("vae", ["AutoencoderTiny", "AutoencoderKL"])
@pytest.mark.parametrize(("steps", "strength"), [(1, 0.5), (2, 0.58), (4, 0.8), (3, 1.0)])
def test_image_to_image_is_diffusers(parts, edited, vae, steps, strength):
    model = model_of(parts, vae, "lcm")
    chosen = schedule_of_strength(model, "consistency", steps, "stroke", strength)
    sampler = resolve(model, SampleRequest(sigmas=chosen.sigmas, task="stroke", batch=BATCH))
    inputs = made_up(sampler)
    assert inputs["image"].shape == (BATCH, 3, SIDE, SIDE)
    assert sampler.signature.output.name == "edited"
    expected = edited("stroke", vae, "lcm", inputs, model.schedule, num_inference_steps=steps, strength=strength)
    torch.testing.assert_close(pictures(sampler, inputs), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["lcm", "tcd"])
@pytest.mark.parametrize("timesteps", [(999,), (999, 499), (999, 759, 499, 259), (499, 259), (259,)])
def test_inpainting_is_diffusers(parts, edited, kind, timesteps):
    model = model_of(parts, "AutoencoderTiny", kind)
    request = SampleRequest(tuple(map(model.schedule.sigma_of, timesteps)), task="inpaint", batch=BATCH)
    sampler = resolve(model, request)
    inputs = made_up(sampler)
    # Of a list, too, diffusers leaves out the first ones below strength 1.
    skipped = 0 if timesteps[0] == 999 else 4 - len(timesteps)
    strength = 1.0 if not skipped else len(timesteps) / 4
    whole = [999, 759, 499, 259] if skipped else list(timesteps)
    eta = {"eta": model.schedule.eta} if kind == "tcd" else {}
    expected = edited(
        "inpaint", "AutoencoderTiny", kind, inputs, model.schedule, timesteps=whole, strength=strength, **eta
    )
    torch.testing.assert_close(pictures(sampler, inputs), expected, rtol=0, atol=1e-6)


def test_the_mask_keeps_what_the_autoencoder_makes_of_the_picture(parts):
    model = model_of(parts, "AutoencoderTiny", "euler")
    sampler = resolve(model, SampleRequest((model.schedule.sigma_of(999),), task="inpaint", batch=BATCH))
    inputs = made_up(sampler)
    inputs["mask"] = torch.ones_like(inputs["mask"])
    latents = model.codec.encode(inputs["image"])
    torch.testing.assert_close(pictures(sampler, inputs), model.codec.decode(latents), rtol=0, atol=1e-9)


def test_levels_of_editing(parts):
    lcm, euler = model_of(parts, "AutoencoderTiny", "lcm"), model_of(parts, "AutoencoderTiny", "euler")
    chosen = default_schedule(lcm, "stroke")
    assert chosen.origin == "4 of LCM's 50 steps: timesteps 799,599,399,199 at strength 0.8"
    assert default_schedule(lcm, "inpaint").sigmas == default_schedule(lcm, "generate").sigmas
    # Of Euler's 2 steps one is left.
    assert default_schedule(euler, "stroke").sigmas == (euler.schedule.sigma_of(499),)
    assert table_schedule(euler.schedule, 4, "stroke", 0.5).sigmas == tuple(map(euler.schedule.sigma_of, (499, 249)))
    for strength in (0.0, 1.5, -1.0):
        with pytest.raises(UsageError, match="--strength"):
            schedule_of_strength(lcm, "consistency", None, "stroke", strength)
    with pytest.raises(UsageError, match="not generate"):
        schedule_of_strength(lcm, "consistency", None, "generate", 0.5)


@pytest.mark.parametrize("task", ["colorize", "denoise"])
def test_tasks_without_a_meaning_in_latents(parts, task):
    model = model_of(parts, "AutoencoderTiny", "lcm")
    with pytest.raises(UsageError, match=f"--task {task}: .* samples latents; it has generate, inpaint, stroke"):
        resolve(model, SampleRequest((model.schedule.sigma_of(499),), task=task))


def test_an_autoencoder_without_an_encoder(parts):
    model = model_of(parts, "AutoencoderTiny", "lcm")
    blind = replace(model, codec=replace(model.codec, encoder=None))
    with pytest.raises(UsageError, match="has no encoder"):
        resolve(blind, SampleRequest((model.schedule.sigma_of(499),), task="stroke"))
