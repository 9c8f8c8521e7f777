"""A latent text-to-image model out of its parts: text encoder, UNet, scheduler and autoencoder, each checked strictly.

Networks are diffusers' own, built without memory and filled; the text encoder is ours (see `networks.clip_text`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cmexport.alphas import AlphaSchedule
from cmexport.checkpoints.diffusers_networks import filled
from cmexport.checkpoints.latent_codec import codec_of
from cmexport.checkpoints.latent_loras import loras_of, note_loras, with_loras
from cmexport.checkpoints.latent_parts import Part, Parts
from cmexport.checkpoints.latent_text import Encoders, encoders_of
from cmexport.checkpoints.lora import merged_source
from cmexport.checkpoints.plausible import library_network
from cmexport.checkpoints.settings import Default, Settings
from cmexport.checkpoints.sizes import parse_size, space_of
from cmexport.errors import CheckpointError
from cmexport.model import Codec, Condition, ConsistencyModel, Space
from cmexport.networks.conditional_unet import ConditionalUnet, GuidanceEmbedding
from cmexport.networks.diffusers_unet import halvings
from cmexport.sampling.alphas import noise_range
from cmexport.signature import Tokens, known
from cmexport.tokenizer import calibration_prompts
from cmexport.tokenizer.clip import LENGTH

GUIDANCE = {
    "LatentConsistencyModelPipeline": 8.5,
    "StableDiffusionPipeline": 7.5,
    "StableDiffusionXLPipeline": 5.0,
}
"""Defaults of diffusers' pipelines; no file of a model states one. Pictures to edit get the same."""

# What would make another network of the UNet than the one that is called here.
_UNUSED = ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "time_embedding_type")
# What a scheduler takes from its configuration besides the table and what the network predicts.
_RULES = {
    "lcm": ("original_inference_steps", "timestep_scaling", "clip"),
    "tcd": ("original_inference_steps",),
    "euler": (),
    "euler_ancestral": (),
}
_USUAL = {"time_embedding_type": "positional"}
_TIME_IDS = 6


def model_of_parts(parts: Parts, settings: Settings) -> ConsistencyModel:
    """Make a model of a pipeline's parts.

    Args:
        parts: as they were read.
        settings: collects the decisions.

    Raises:
        CheckpointError: a part is damaged, or doesn't fit the others; the message names it.
        BackendError: diffusers is not installed.
        UsageError: `--set` contradicts it.
    """
    merger = loras_of(settings)
    parts = with_loras(parts, merger)
    schedule, tokenizer = parts.schedule, parts.texts[0].tokenizer
    encoders = encoders_of(parts.texts, settings)
    unet, config = _unet(parts.unet, parts.pipeline, encoders)
    if encoders.pooled is not None and parts.vae.config.get("latents_mean") is not None:
        raise CheckpointError(f"{parts.vae.where}: latents_mean is not supported, only latents scaled by one factor")
    codec = codec_of(parts.vae, settings, config["in_channels"])
    space = _space(parts, settings, config, halvings(unet), codec.factor)
    network = ConditionalUnet(unet, _time_ids(space, codec) if encoders.pooled else ())
    loras = merger.finish()
    source = merged_source(parts.source(), loras)
    note_loras(settings, loras)
    for key, value in {"scheduler": schedule.kind, **_rules(schedule)}.items():
        # Some files say nothing of it: then it was chosen when they were read, and has its own origin.
        if key not in settings.resolved:
            settings.inferred(key, value, parts.schedule_origin)
    if schedule.kind == "tcd":
        settings.inferred("eta", schedule.eta, "default of diffusers' TCDScheduler; --eta")
    settings.inferred("scaling_factor", codec.scale, parts.vae.origin)
    return ConsistencyModel(
        network=network.eval().requires_grad_(False),
        architecture={"name": "diffusers.UNet2DConditionModel", **{k: v for k, v in config.items() if k[:1] != "_"}},
        space=space,
        preconditioning=schedule.kind,
        c_noise="timestep",
        noise=noise_range(schedule),
        conditions=_conditions(encoders, parts, config.get("time_cond_proj_dim"), settings),
        renoise=schedule.kind,
        clamp=False,
        source=source,
        settings=settings.finish(),
        codec=codec,
        schedule=schedule,
        tokenizer=tokenizer,
        loras=loras,
    )


def _rules(schedule: AlphaSchedule) -> dict[str, Any]:
    return {key: getattr(schedule, key) for key in ("prediction", *_RULES[schedule.kind])}


def _conditions(encoders: Encoders, parts: Parts, guided: int | None, settings: Settings) -> tuple[Condition, ...]:
    tokenizer = parts.texts[0].tokenizer
    sentences = tuple(tokenizer.words(prompt)[: LENGTH - 2] for prompt in calibration_prompts())
    pad = None if tokenizer.pad == tokenizer.end else tokenizer.pad
    law = Tokens(len(tokenizer.vocabulary), tokenizer.begin, tokenizer.end, pad, sentences)
    tokens = known.tokens(1, LENGTH, law)
    prompt = [Condition(known.EMBEDDINGS, tokens, encoders.states, unsaid=parts.unsaid)]
    if encoders.pooled is not None:
        prompt.append(Condition(known.POOLED, tokens, encoders.pooled, after=known.EMBEDDINGS, unsaid=parts.unsaid))
    if guided is None:
        settings.inferred(
            "guidance", 1.0, "this UNet is told no scale; above 1 it is evaluated twice a step; --guidance"
        )
        return tuple(prompt)
    pipeline = parts.pipeline.replace("Img2Img", "")
    usual = settings.inferred("guidance", GUIDANCE[pipeline], f"default of diffusers' {pipeline}; --guidance")
    return (*prompt, Condition("guidance", known.guidance(1), GuidanceEmbedding(guided), usual=usual))


def _time_ids(space: Space, codec: Codec) -> tuple[int, ...]:
    """Return what diffusers' pipelines tell an SDXL UNet by default: the picture is whole, and always had its size."""
    height, width = space.height * codec.factor, space.width * codec.factor
    return height, width, 0, 0, height, width


def _unet(part: Part, pipeline: str, encoders: Encoders) -> tuple[nn.Module, dict[str, Any]]:
    path, config = part.where, part.config
    for name in _UNUSED:
        if config.get(name) not in (None, _USUAL.get(name)):
            raise CheckpointError(f"{path}: {name} {str(config[name])[:80]} is not supported")
    needed = config.get("cross_attention_dim", 1280)
    if needed != encoders.width:
        one = "the text encoder gives" if encoders.pooled is None else "the text encoders give"
        raise CheckpointError(
            f"{path}: cross_attention_dim is {str(needed)[:40]}, but {one} {encoders.width} numbers a token"
        )
    _check_addition(part, pipeline, encoders)
    guided = config.get("time_cond_proj_dim")
    if guided is None and pipeline.startswith("LatentConsistency"):
        raise CheckpointError(
            f"{path}: time_cond_proj_dim is missing: this UNet takes no timestep_cond, the embedded guidance that a "
            f"{pipeline} feeds"
        )
    if guided is not None and (not isinstance(guided, int) or not 4 <= guided <= 4096):
        raise CheckpointError(f"{path}: time_cond_proj_dim is {str(guided)[:40]}")
    unet: Any = library_network("UNet2DConditionModel", path, config)
    network = filled(unet, part.weights, part.read())
    full = {name: getattr(unet.config, name) for name in ("in_channels", "out_channels", "sample_size")}
    if full["in_channels"] != full["out_channels"]:
        raise CheckpointError(
            f"{path}: takes {full['in_channels']} channels and returns {full['out_channels']}; networks that take a "
            "mask or a picture besides are not supported"
        )
    return network, {**config, **full}


def _check_addition(part: Part, pipeline: str, encoders: Encoders) -> None:
    """Refuse a UNet that takes a pooled prompt and sizes where a pipeline has none, or others than it has.

    Raises:
        CheckpointError: it does.
    """
    kind = part.config.get("addition_embed_type")
    wanted = None if encoders.pooled is None else "text_time"
    if kind != wanted:
        raise CheckpointError(f"{part.where}: addition_embed_type is {str(kind)[:80]}; a {pipeline} has {wanted}")
    if encoders.channels is None:
        return
    each, taken = (part.config.get(f) for f in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"))
    if type(each) is not int or type(taken) is not int or taken != encoders.channels + _TIME_IDS * each:
        raise CheckpointError(
            f"{part.where}: projection_class_embeddings_input_dim is {str(taken)[:40]}, but the second text encoder "
            f"pools to {encoders.channels} numbers and {_TIME_IDS} time ids take {str(each)[:40]} each"
        )


def _space(parts: Parts, settings: Settings, config: Mapping[str, Any], multiple: int, factor: int) -> Space:
    part, side = parts.unet, config["sample_size"]
    usual = Default(512, f"guess: {part.origin} has no sample_size", ambiguous=True)
    stated = []
    if side is not None:
        sides = side if isinstance(side, list | tuple) else [side]
        if not 1 <= len(sides) <= 2 or not all(type(s) is int and 1 <= s <= 1024 for s in sides):
            raise CheckpointError(f"{part.where}: sample_size is {str(side)[:40]}")
        pixels = parse_size("x".join(str(s * factor) for s in sides))
        stated = [Default(pixels, f"{part.origin}, {factor} times its sample_size")]
    size = settings.choose("image_size", usual, *stated)
    pixels_space = space_of(parts.where, config["in_channels"], size, multiple * factor)
    return Space(config["in_channels"], pixels_space.height // factor, pixels_space.width // factor, multiple)
