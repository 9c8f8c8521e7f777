"""Small random text-to-image pipelines, made and saved by diffusers, and what its own pipelines draw with them.

Latents have 8x8 pixels and 4 channels, pictures 16x16.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import clip_tokenizers
from support.networks import random_weights

from cmexport.checkpoints import load_checkpoint
from cmexport.model import SampleRequest
from cmexport.sampling.methods import method_named, resolve

PROMPTS = ("a crying cat", "a green car", "", "a photo of a woman astronaut, naïve café 😿")
SCHEDULERS = {
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
_TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def scheduler(kind: str = "lcm", **fields: object):
    """One of diffusers' few-step schedulers, with Stable Diffusion's table."""
    import diffusers

    name, own = SCHEDULERS[kind]
    return getattr(diffusers, name)(**{**_TABLE, **own, **fields})


def text_encoder(words: int, width: int = 32, **fields: object):
    from transformers import CLIPTextConfig, CLIPTextModel

    own = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
    }
    config = CLIPTextConfig(**{**own, **fields})
    return random_weights(CLIPTextModel(config), 1)


def second_text_encoder(words: int, width: int = 48, channels: int = 40):
    """SDXL's second: of OpenCLIP, with a projection."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=3,
        hidden_act="gelu",
        projection_dim=channels,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
    )
    return random_weights(CLIPTextModelWithProjection(config), 4)


def unet(guided: int | None = 32, width: int = 32, **fields: object):
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": 2,
        "cross_attention_dim": width,
        "time_cond_proj_dim": guided,
    }
    return random_weights(UNet2DConditionModel(**{**config, **fields}), 2)


def decoder(kind: str, **fields: object):
    """`AutoencoderTiny` ("tiny") or `AutoencoderKL` ("kl"), of two levels."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    if kind == "tiny":
        own = {
            "encoder_block_out_channels": (16, 16),
            "decoder_block_out_channels": (16, 16),
            "num_encoder_blocks": (1, 1),
            "num_decoder_blocks": (1, 1),
            "scaling_factor": 1.03,
        }
        made = random_weights(AutoencoderTiny(**{**own, **fields}), 3)
        last = made.decoder.layers[-1]
    else:
        own = {
            "block_out_channels": (16, 32),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "norm_num_groups": 8,
            "latent_channels": 4,
            "scaling_factor": 0.9,
        }
        made = random_weights(AutoencoderKL(**{**own, **fields}), 3)
        last = made.decoder.conv_out
    # Pictures within [-1, 1], where a difference is to be seen; the tiny decoder's end is 2 x - 1.
    last.weight.mul_(0.4 if kind == "kl" else 0.1)
    last.bias.fill_(0.0 if kind == "kl" else 0.5)
    return made


def save_pipeline(
    folder: Path,
    kind: str = "lcm",
    vae: str = "tiny",
    *,
    schedule: dict[str, object] | None = None,
    latent: bool | None = None,
    unet_fields: dict[str, object] | None = None,
    vae_fields: dict[str, object] | None = None,
    text_fields: dict[str, object] | None = None,
    pad: str | None = None,
    **options: object,
) -> Path:
    """Save a pipeline with random weights.

    Args:
        folder: written to.
        kind: key into `SCHEDULERS`.
        vae: "tiny" or "kl".
        schedule: further fields of the scheduler.
        latent: a LatentConsistencyModelPipeline, whose UNet takes embedded guidance; by default with "lcm".
        unet_fields: fields of the UNet.
        vae_fields: fields of the autoencoder.
        text_fields: fields of the text encoder.
        pad: what the tokenizer pads with; by default what ends a prompt.
        options: of `save_pretrained`: `variant`, `safe_serialization`, `max_shard_size`.
    """
    import diffusers
    from transformers import CLIPTokenizer

    latent = kind == "lcm" if latent is None else latent
    vocabulary, merges = clip_tokenizers.trained()
    padding = {} if pad is None else {"pad_token": pad}
    words = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, **padding)
    name = "LatentConsistencyModelPipeline" if latent else "StableDiffusionPipeline"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = getattr(diffusers, name)(
            vae=decoder(vae, **(vae_fields or {})),
            text_encoder=text_encoder(len(vocabulary), **(text_fields or {})),
            tokenizer=words,
            unet=unet(32 if latent else None, **(unet_fields or {})),
            scheduler=scheduler(kind, **(schedule or {})),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(folder, **options)
    return folder


def save_xl_pipeline(
    folder: Path,
    kind: str = "euler_ancestral",
    vae: str = "tiny",
    *,
    guided: int | None = None,
    schedule: dict[str, object] | None = None,
    unet_fields: dict[str, object] | None = None,
    text_fields: dict[str, object] | None = None,
    zeros: bool = True,
    pad: str = "!",
    **options: object,
) -> Path:
    """Save an SDXL pipeline with random weights; see `save_pipeline`.

    Args:
        folder: written to.
        kind: key into `SCHEDULERS`.
        vae: "tiny" or "kl".
        guided: width of embedded guidance, as in LCM-SDXL.
        schedule: further fields of the scheduler.
        unet_fields: fields of the UNet.
        text_fields: fields of the first text encoder.
        zeros: `force_zeros_for_empty_prompt`.
        pad: what the second tokenizer pads with.
        options: of `save_pretrained`.
    """
    import diffusers
    from transformers import CLIPTokenizer

    vocabulary, merges = clip_tokenizers.trained()
    shape = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 40 + 6 * 8,
        "use_linear_projection": True,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (2, 1),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = diffusers.StableDiffusionXLPipeline(
            vae=decoder(vae),
            text_encoder=text_encoder(len(vocabulary), **(text_fields or {})),
            text_encoder_2=second_text_encoder(len(vocabulary)),
            tokenizer=CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77),
            tokenizer_2=CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=pad),
            unet=unet(guided, 32 + 48, **{**shape, **(unet_fields or {})}),
            scheduler=scheduler(kind, **(schedule or {})),
            force_zeros_for_empty_prompt=zeros,
            add_watermarker=False,
        )
        pipeline.save_pretrained(folder, **options)
    return folder


def pipeline(folder: Path):
    """`save_pipeline`, opened by diffusers."""
    from diffusers import LatentConsistencyModelPipeline

    made = LatentConsistencyModelPipeline.from_pretrained(save_pipeline(folder))
    made.set_progress_bar_config(disable=True)
    return made


@cache
def tiny_xl_pipeline(kind: str = "euler_ancestral", guided: int | None = None, vae: str = "tiny") -> Path:
    """A saved SDXL pipeline for all tests; nobody writes to it."""
    return save_xl_pipeline(Path(tempfile.mkdtemp(prefix="latent-xl-")), kind, vae, guided=guided)


@cache
def tiny_pipeline(kind: str = "lcm", vae: str = "tiny") -> Path:
    """A saved pipeline for all tests; nobody writes to it."""
    return save_pipeline(Path(tempfile.mkdtemp(prefix="latent-")), kind, vae)


def drawn_by_diffusers(
    folder: Path, prompts: list[str], inputs: dict[str, torch.Tensor], *, guidance: float, steps: int, **options: object
) -> torch.Tensor:
    """What diffusers' own pipeline draws of given noises, float32, (N, C, H, W) in [-1, 1].

    Args:
        folder: a saved pipeline.
        prompts: one a picture.
        inputs: `noise` (N, c, h, w) and, for more than one step, `renoise` (K-1, N, c, h, w).
        guidance: scale.
        steps: K.
        options: of the call: `height`, `width`, `original_inference_steps`, `timesteps`, `eta`.
    """
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = _opened(folder, diffusers)
        drawn = [*inputs.get("renoise", ()), torch.zeros_like(inputs["noise"])]
        module = importlib.import_module(type(pipeline.scheduler).__module__)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(None):
            patch.setattr(module, "randn_tensor", lambda *_, **__: drawn.pop(0))
            images = pipeline(
                prompt=list(prompts),
                latents=inputs["noise"],
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="pt",
                **options,
            ).images
    return images * 2 - 1


def differs(folder, steps, guidance, size=None, model=None, prompts=PROMPTS, **options):
    """Largest difference of our float32 reference from diffusers' pipeline, of pictures in [-1, 1]."""
    model = model or load_checkpoint(folder, {} if size is None else {"image_size": size})
    levels = method_named("consistency", "generate").spaced(model, steps, "generate", 1).sigmas
    asked = guidance > 1 or any(c.usual is not None for c in model.conditions)
    request = SampleRequest(levels, batch=len(prompts), guidance=guidance if asked else None, eta=options.get("eta"))
    sampler = resolve(model, request)
    given = sampler.signature.examples(5)
    given["tokens"] = torch.tensor([model.tokenizer.encode(prompt) for prompt in prompts])
    if size is not None:
        options["height"], options["width"] = map(int, size.split("x"))
    expected = drawn_by_diffusers(folder, prompts, given, guidance=guidance, steps=steps, **options)
    found = sampler.module()(**given)
    assert found.shape == expected.shape
    assert (expected.abs() < 0.999).float().mean() > 0.9
    assert expected.std() > 0.01
    return (found - expected).abs().max().item()


def edited(path, **changes):
    """Change fields of a JSON file; `...` takes one away."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def weights(folder, part, change):
    """Change the tensors of a part."""
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def _opened(folder: Path, diffusers):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
