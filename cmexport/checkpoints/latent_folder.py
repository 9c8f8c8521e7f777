"""diffusers folders of text-to-image pipelines that paint latents in a few steps.

`LatentConsistencyModelPipeline`, and `StableDiffusionPipeline` with a scheduler of few steps: tokenizer, text encoder,
UNet, scheduler and autoencoder, each read strictly. Networks are the library's own, built without memory and filled;
the text encoder is ours (see `networks.clip_text`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmexport.alphas import AlphaSchedule
from cmexport.checkpoints.choosing import SETTING, several
from cmexport.checkpoints.diffusers_networks import fields_of, filled, read_flat_state, renamed, without_weights
from cmexport.checkpoints.folders import weights_files
from cmexport.checkpoints.reading import FileFacts, file_facts
from cmexport.checkpoints.settings import Default, Settings
from cmexport.checkpoints.sharded import read_shards
from cmexport.checkpoints.sizes import parse_size, space_of
from cmexport.errors import CheckpointError
from cmexport.files import read_json
from cmexport.model import CheckpointSource, Codec, Condition, ConsistencyModel, Setting, Space
from cmexport.networks.clip_text import ACTIVATIONS, ClipTextEncoder, TextEncoderShape
from cmexport.networks.conditional_unet import ConditionalUnet, GuidanceEmbedding
from cmexport.networks.meta import on_meta
from cmexport.sampling.alphas import noise_range
from cmexport.signature import Tokens, known
from cmexport.tokenizer import Tokenizer, calibration_prompts, read_tokenizer
from cmexport.tokenizer.clip import LENGTH

PIPELINES = (
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
)
PARTS = ("tokenizer", "text_encoder", "unet", "scheduler", "vae")
GUIDANCE = {"LatentConsistencyModelPipeline": 8.5, "StableDiffusionPipeline": 7.5}
"""Defaults of diffusers' pipelines; no file of a model states one. Pictures to edit get the same."""

# What would make another network of the UNet than the one that is called here.
_UNUSED = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim", "time_embedding_type")
# What a scheduler takes from its configuration besides the table and what the network predicts.
_RULES = {
    "lcm": ("original_inference_steps", "timestep_scaling", "clip"),
    "tcd": ("original_inference_steps",),
    "euler": (),
    "euler_ancestral": (),
}
# Fields that count modules, of which nobody has many; building 100,000 takes minutes.
_COUNTS = ("layers_per_block", "transformer_layers_per_block", "num_encoder_blocks", "num_decoder_blocks")
_USUAL = {"time_embedding_type": "positional"}


@dataclass
class _Files:
    """Every file of weights that was read, for the hash of the whole."""

    folder: Path
    settings: Settings
    wanted: str | None
    read: list[tuple[str, FileFacts]] = field(default_factory=list)
    variants: set[str] = field(default_factory=set)

    def tensors(self, part: str, folder: Path | None = None) -> Mapping[str, Tensor]:
        """Read the weights of a part; a variant (fp16) is taken where it is the only one, or `--weights` says so."""
        folder = folder or self.folder / part
        files = weights_files(folder)
        if not files:
            raise CheckpointError(
                f"{folder}: holds no weights (model.safetensors, diffusion_pytorch_model.safetensors)"
            )
        self.variants.update(files)
        if self.wanted in files:
            chosen, origin = files[self.wanted], f"--weights {self.wanted}"
        elif "" in files or len(files) == 1:
            # A part without the variant gives what it has, as in diffusers.
            chosen, origin = files.get("", next(iter(files.values()))), "the only variant that is there"
        else:
            raise several(folder, list(files), "variants")
        if chosen.variant:
            self.settings.inferred(SETTING, chosen.variant, origin)
        if chosen.sharded:
            facts, tensors = read_shards(chosen.path, read_flat_state)
        else:
            facts = file_facts(chosen.path)
            tensors = dict(read_flat_state(facts))
        self.read.append((part, facts))
        return tensors

    @property
    def source(self) -> tuple[str, int]:
        """Hash over parts and hashes of their files, and the bytes of all."""
        digest = hashlib.sha256("".join(f"{part}\0{facts.sha256}\n" for part, facts in self.read).encode())
        return digest.hexdigest(), sum(facts.size_bytes for _, facts in self.read)


def is_latent_pipeline(name: str) -> bool:
    """Whether `model_index.json` names a pipeline that is read here."""
    return name in PIPELINES


def is_whole(folder: Path, wanted: str | None = None) -> bool | None:
    """Whether a latent pipeline has weights of all parts, the `wanted` ones in some; None: it is something else."""
    index = folder / "model_index.json"
    if not index.is_file() or not is_latent_pipeline(str(read_json(index).get("_class_name"))):
        return None
    found = [weights_files(folder / part) for part in ("unet", "text_encoder", "vae")]
    return all(found) and (wanted is None or any(wanted in files for files in found))


def load_latent_folder(
    folder: Path, name: str, settings: Settings, wanted: str | None = None, reference: str = ""
) -> ConsistencyModel:
    """Read a text-to-image pipeline.

    Args:
        folder: with `model_index.json` and a subfolder for each part.
        name: the pipeline's class.
        settings: collects the decisions.
        wanted: a variant of the weights' files, "fp16".
        reference: hub id, if the folder lies in its cache.

    Raises:
        CheckpointError: a part is missing, damaged, or doesn't fit the others; the message names it.
        BackendError: diffusers is not installed.
        UsageError: `--set` contradicts it.
    """
    index = read_json(folder / "model_index.json")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise CheckpointError(f"{folder}: lacks the folder {part}/, a part of every {name}")
        if part in index and index[part] in (None, [None, None]):
            raise CheckpointError(f"{folder}: its model_index.json says that it has no {part}, a part of every {name}")
    files = _Files(folder, settings, wanted)
    schedule = AlphaSchedule.from_config(
        read_json(folder / "scheduler" / "scheduler_config.json"), folder / "scheduler" / "scheduler_config.json"
    )
    tokenizer = read_tokenizer(folder / "tokenizer")
    encoder = _text_encoder(files, tokenizer)
    network, config = _unet(files, name, encoder.shape.hidden_size)
    codec = _codec(files, config["in_channels"])
    space = _space(files, config, network.multiple, codec.factor)
    if wanted is not None and wanted not in files.variants:
        there = ", ".join(sorted(v for v in files.variants if v)) or "none"
        raise CheckpointError(f"{folder}: no part has weights of the variant '{wanted}'; there are: {there}")
    settings.inferred("scheduler", schedule.kind, "scheduler_config.json")
    for key in ("prediction", *_RULES[schedule.kind]):
        settings.inferred(key, getattr(schedule, key), "scheduler_config.json")
    if schedule.kind == "tcd":
        settings.inferred("eta", schedule.eta, "default of diffusers' TCDScheduler; --eta")
    settings.inferred("scaling_factor", codec.scale, "vae/config.json")
    sha256, size_bytes = files.source
    return ConsistencyModel(
        network=network,
        architecture={"name": "diffusers.UNet2DConditionModel", **{k: v for k, v in config.items() if k[:1] != "_"}},
        space=space,
        preconditioning=schedule.kind,
        c_noise="timestep",
        noise=noise_range(schedule),
        conditions=_conditions(encoder, tokenizer, name, config.get("time_cond_proj_dim"), settings),
        renoise=schedule.kind,
        clamp=False,
        source=CheckpointSource(folder, f"diffusers ({name})", sha256, size_bytes, reference),
        settings=settings.finish(),
        codec=codec,
        schedule=schedule,
        tokenizer=tokenizer,
    )


def _conditions(
    encoder: ClipTextEncoder, tokenizer: Tokenizer, pipeline: str, guided: int | None, settings: Settings
) -> tuple[Condition, ...]:
    sentences = tuple(tokenizer.words(prompt)[: LENGTH - 2] for prompt in calibration_prompts())
    pad = None if tokenizer.pad == tokenizer.end else tokenizer.pad
    law = Tokens(len(tokenizer.vocabulary), tokenizer.begin, tokenizer.end, pad, sentences)
    tokens = known.tokens(1, LENGTH, law)
    prompt = Condition("embeddings", tokens, encoder)
    if guided is None:
        settings.inferred(
            "guidance", 1.0, "this UNet is told no scale; above 1 it is evaluated twice a step; --guidance"
        )
        return (prompt,)
    pipeline = pipeline.replace("Img2Img", "")
    usual = settings.inferred("guidance", GUIDANCE[pipeline], f"default of diffusers' {pipeline}; --guidance")
    return (prompt, Condition("guidance", known.guidance(1), GuidanceEmbedding(guided), usual=usual))


def _text_encoder(files: _Files, tokenizer: Tokenizer) -> ClipTextEncoder:
    path = files.folder / "text_encoder" / "config.json"
    config = read_json(path)
    kind = config.get("architectures") or ["CLIPTextModel"]
    if kind != ["CLIPTextModel"]:
        shown = kind[0] if isinstance(kind, list) else kind
        raise CheckpointError(f"{path}: is a {str(shown)[:80]}; only CLIPTextModel is supported")
    nested = config.get("text_config")
    config = {**config, **(nested if isinstance(nested, dict) else {})}
    known_fields = {f.name: config[f.name] for f in fields(TextEncoderShape) if f.name in config}
    for name, value in known_fields.items():
        whole = name not in ("hidden_act", "layer_norm_eps")
        if whole and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000):
            raise CheckpointError(f"{path}: {name} is {str(value)[:40]}")
    try:
        shape = TextEncoderShape(**known_fields)
    except TypeError as error:
        raise CheckpointError(f"{path}: describes no CLIPTextModel ({error})") from error
    if str(shape.hidden_act) not in ACTIVATIONS:
        raise CheckpointError(f"{path}: hidden_act '{str(shape.hidden_act)[:40]}'; known are {', '.join(ACTIVATIONS)}")
    if type(shape.layer_norm_eps) not in (int, float) or not 0 < shape.layer_norm_eps < 1:
        raise CheckpointError(f"{path}: layer_norm_eps is {str(shape.layer_norm_eps)[:40]}")
    if shape.num_hidden_layers > 64 or shape.hidden_size % shape.num_attention_heads:
        raise CheckpointError(f"{path}: {shape.num_hidden_layers} layers of {shape.num_attention_heads} heads, no CLIP")
    if shape.max_position_embeddings != LENGTH:
        raise CheckpointError(
            f"{path}: max_position_embeddings is {shape.max_position_embeddings}; CLIP takes {LENGTH} tokens"
        )
    if len(tokenizer.vocabulary) > shape.vocab_size:
        raise CheckpointError(
            f"{path}: vocab_size is {shape.vocab_size}, but tokenizer/ has {len(tokenizer.vocabulary)} tokens"
        )
    encoder = on_meta(lambda: ClipTextEncoder(shape))
    tensors = {k.removeprefix("text_model."): v for k, v in files.tensors("text_encoder").items()}
    tensors.pop("embeddings.position_ids", None)
    return filled(encoder, files.folder / "text_encoder", tensors)


def _unet(files: _Files, pipeline: str, width: int) -> tuple[ConditionalUnet, dict[str, Any]]:
    path = files.folder / "unet" / "config.json"
    config = read_json(path)
    for name in _UNUSED:
        if config.get(name) not in (None, _USUAL.get(name)):
            larger = " (a UNet of SDXL, which is not supported yet)" if config.get("addition_embed_type") else ""
            raise CheckpointError(f"{path}: {name} {str(config[name])[:80]} is not supported{larger}")
    needed = config.get("cross_attention_dim", 1280)
    if needed != width:
        raise CheckpointError(
            f"{path}: cross_attention_dim is {str(needed)[:40]}, but text_encoder/ gives {width} numbers a token"
        )
    guided = config.get("time_cond_proj_dim")
    if guided is None and pipeline.startswith("LatentConsistency"):
        raise CheckpointError(
            f"{path}: time_cond_proj_dim is missing: this UNet takes no timestep_cond, the embedded guidance that a "
            f"{pipeline} feeds"
        )
    if guided is not None and (not isinstance(guided, int) or not 4 <= guided <= 4096):
        raise CheckpointError(f"{path}: time_cond_proj_dim is {str(guided)[:40]}")
    unet = _library("UNet2DConditionModel", path, config)
    network = ConditionalUnet(filled(unet, files.folder / "unet", files.tensors("unet")))
    full = {name: getattr(unet.config, name) for name in ("in_channels", "out_channels", "sample_size")}
    if full["in_channels"] != full["out_channels"]:
        raise CheckpointError(
            f"{path}: takes {full['in_channels']} channels and returns {full['out_channels']}; networks that take a "
            "mask or a picture besides are not supported"
        )
    return network.eval().requires_grad_(False), {**config, **full}


def _space(files: _Files, config: Mapping[str, Any], multiple: int, factor: int) -> Space:
    path, side = files.folder / "unet" / "config.json", config["sample_size"]
    usual = Default(512, "guess: unet/config.json has no sample_size", ambiguous=True)
    stated = []
    if side is not None:
        sides = side if isinstance(side, list | tuple) else [side]
        if not 1 <= len(sides) <= 2 or not all(type(s) is int and 1 <= s <= 1024 for s in sides):
            raise CheckpointError(f"{path}: sample_size is {str(side)[:40]}")
        pixels = parse_size("x".join(str(s * factor) for s in sides))
        stated = [Default(pixels, f"unet/config.json, {factor} times its sample_size")]
    size = files.settings.choose("image_size", usual, *stated)
    pixels_space = space_of(files.folder, config["in_channels"], size, multiple * factor)
    return Space(config["in_channels"], pixels_space.height // factor, pixels_space.width // factor, multiple)


class _KlDecoder(nn.Module):
    """AutoencoderKL's way from latents to pictures."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, z: Tensor) -> Tensor:
        z = z if self.post_quant_conv is None else self.post_quant_conv(z)
        result: Tensor = self.decoder(z)
        return result


class _KlEncoder(nn.Module):
    """AutoencoderKL's way from pictures to the mean of their latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.quant_conv, self.encoder = vae.quant_conv, vae.encoder

    def forward(self, picture: Tensor) -> Tensor:
        moments = self.encoder(picture)
        moments = moments if self.quant_conv is None else self.quant_conv(moments)
        mean: Tensor = moments.chunk(2, dim=1)[0]
        return mean


_ENDS: Mapping[str, Callable[[Any], tuple[nn.Module, nn.Module]]] = {
    "AutoencoderKL": lambda vae: (_KlDecoder(vae), _KlEncoder(vae)),
    "AutoencoderTiny": lambda vae: (vae.decoder, vae.encoder),
}


def _codec(files: _Files, channels: int) -> Codec:
    path = files.folder / "vae" / "config.json"
    asked = str(files.settings.said("decoder") or "")
    if asked.startswith("tiny:"):
        path = Path(asked.removeprefix("tiny:")) / "config.json"
    config = read_json(path)
    kind = str(config.get("_class_name"))
    if kind not in _ENDS:
        raise CheckpointError(f"{path}: is a {kind[:80]}; known are {' and '.join(_ENDS)}")
    if asked and kind != ("AutoencoderKL" if asked == "kl" else "AutoencoderTiny"):
        raise CheckpointError(f"{path}: is an {kind}, not what --decoder {asked.partition(':')[0]} means")
    files.settings.choose("decoder", Default(kind, "vae/config.json"))
    vae: Any = _library(kind, path, config)
    if vae.config.latent_channels != channels:
        raise CheckpointError(
            f"{path}: latent_channels is {vae.config.latent_channels}, but the UNet paints {channels} channels"
        )
    scale = vae.config.scaling_factor
    if not (isinstance(scale, int | float) and 1e-6 < abs(scale) < 1e6):
        raise CheckpointError(f"{path}: scaling_factor is {str(scale)[:40]}")
    if getattr(vae.config, "shift_factor", None):
        remark = f"{path}: shift_factor {str(vae.config.shift_factor)[:40]} is not used: diffusers' pipelines of this "
        files.settings.resolved["shift_factor"] = Setting(
            "shift_factor", 0.0, "as in the pipeline's code", remark=remark + "kind divide by scaling_factor alone"
        )
    tensors = {}
    for name, tensor in renamed(files.tensors("vae", path.parent)).items():
        # Attention was 1x1 convolutions there.
        linear = ".attentions." in name and tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
        tensors[name] = tensor[:, :, 0, 0] if linear else tensor
    decoder, encoder = _ENDS[kind](filled(vae, path.parent, tensors))
    levels = vae.config.block_out_channels if kind == "AutoencoderKL" else vae.config.decoder_block_out_channels
    codec = Codec(decoder, vae.config.out_channels, 2 ** (len(levels) - 1), float(scale), encoder=encoder)
    _try_codec(path, codec, channels)
    return codec


def _try_codec(path: Path, codec: Codec, channels: int) -> None:
    """Decode a small latent: what `require_boundary` is to a network.

    Raises:
        CheckpointError: it can't be decoded, or the picture has another size.
    """
    # Two pixels: GroupNorm takes no group of a single number.
    try:
        with torch.no_grad():
            shape = tuple(codec.decode(torch.zeros(1, channels, 2, 2)).shape)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as problem:
        reason = str(problem).strip().splitlines() or [type(problem).__name__]
        raise CheckpointError(f"{path}: its decoder can't be evaluated: {reason[0][:200]}") from problem
    if shape != (1, codec.channels, 2 * codec.factor, 2 * codec.factor):
        raise CheckpointError(f"{path}: decodes latents of 2x2 to {shape[-2]}x{shape[-1]} pixels")


def _library(name: str, path: Path, config: Mapping[str, Any]) -> nn.Module:
    """Build one of the library's networks without memory for its weights."""
    if config.get("_class_name", name) != name:
        raise CheckpointError(f"{path}: is a {str(config['_class_name'])[:80]}, not {name}")
    for key in fields_of(name, path):
        if not _plausible(config.get(key), 64 if key in _COUNTS else 100_000):
            raise CheckpointError(f"{path}: {key} is implausible")
    return without_weights(name, path, config)


def _plausible(value: Any, most: int, nested: int = 3) -> bool:
    if isinstance(value, list):
        return nested > 0 and len(value) <= 32 and all(_plausible(item, most, nested - 1) for item in value)
    return not isinstance(value, int | float) or abs(value) <= most
