"""Stable Diffusion in one file, `.safetensors` or `.ckpt`, as its authors and civitai publish it.

UNet, autoencoder and text encoder lie in it under the names of their training code, without a configuration, a
scheduler or a tokenizer. Names say the family, shapes the sizes (`ldm_names`, `ldm_configs`); a scheduler of few steps
is what the file or its user says, else a guess; the tokenizer is CLIP's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmexport.alphas import KINDS, AlphaSchedule
from cmexport.checkpoints.choosing import SETTING, Candidate, named
from cmexport.checkpoints.latent_folder import FolderParts
from cmexport.checkpoints.latent_model import model_of_parts
from cmexport.checkpoints.latent_parts import Part, Parts, Text, vae_names
from cmexport.checkpoints.latent_schedule import lora_guess
from cmexport.checkpoints.ldm_families import SD2, SDXL, Family, family_of
from cmexport.checkpoints.ldm_groups import Groups, grouped
from cmexport.checkpoints.ldm_parts import FilePart, kl_part, text_part, unet_part
from cmexport.checkpoints.reading import FileFacts, counted, facts_of_all, first_few
from cmexport.checkpoints.roles import AVERAGED
from cmexport.checkpoints.safetensors_file import StoredTensors, metadata_of
from cmexport.checkpoints.settings import Default, Settings
from cmexport.checkpoints.sniff import is_stable_diffusion
from cmexport.errors import CheckpointError
from cmexport.model import CheckpointSource, ConsistencyModel, Setting
from cmexport.tokenizer import Special, Tokenizer, clip_tokenizer, read_tokenizer

RAW, AVERAGE = "model", "model_ema"
"""What `--weights` calls the UNet's weights and their average; `ema` means the latter too."""

_TABLE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
# A file in half precision has its table in half precision: bfloat16 rounds by up to 2^-8.
_TABLE_TOLERANCE = 5e-3
# Training steps of Stability's own files, by which diffusers' scripts tell them: 2.0 in 512 pixels, 2.1 in 768.
_STEPS = {875000: "epsilon", 110000: "v_prediction"}
_PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


@dataclass(frozen=True)
class SingleFile:
    """A file of Stable Diffusion, not yet made a model of.

    Attributes:
        facts: which file.
        container: "safetensors", "torch zip", ...
        stored: its tensors by name; those of a safetensors file are read when asked for.
        shapes: the same on the device `meta`.
        metadata: what a safetensors header says besides.
        training_step: `global_step` of a training file.
    """

    facts: FileFacts
    container: str
    stored: Mapping[str, Tensor]
    shapes: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    training_step: int | None = None

    @property
    def where(self) -> Path:
        """The file, for errors."""
        return self.facts.path


def single_file_of(facts: FileFacts) -> SingleFile | None:
    """Open a safetensors file, if it holds Stable Diffusion.

    Raises:
        CheckpointError: damaged, truncated, or a header that lies about sizes.
    """
    stored = StoredTensors(facts.path)
    if not is_stable_diffusion(stored):
        return None
    return SingleFile(facts, "safetensors", stored, stored.shapes(), metadata_of(facts.path))


def single_file_in(facts: FileFacts, container: str, content: object) -> SingleFile | None:
    """Find Stable Diffusion in what a pickle held: its weights, or a training state with them."""
    for state in (content, content.get("state_dict") if isinstance(content, Mapping) else None):
        if isinstance(state, Mapping) and is_stable_diffusion(state):
            # Besides weights, training code leaves numbers there.
            stored = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
            shapes = {name: tensor.to("meta") for name, tensor in stored.items()}
            step = content.get("global_step") if isinstance(content, Mapping) else None
            return SingleFile(facts, container, stored, shapes, {}, step if type(step) is int else None)
    return None


@dataclass(frozen=True)
class FileParts:
    """The networks of a file: what `load_single_file` makes a model of, and `inspect --parts` shows."""

    family: Family
    unet: FilePart
    vae: FilePart | None
    texts: tuple[FilePart, ...]

    @property
    def all(self) -> tuple[FilePart, ...]:
        """Every part that is there."""
        return (self.unet, *([] if self.vae is None else [self.vae]), *self.texts)


def load_single_file(file: SingleFile, settings: Settings, wanted: str | None = None) -> ConsistencyModel:
    """Make a model of a single file.

    Args:
        file: what it holds.
        settings: collects the decisions.
        wanted: as `--weights` names it: "model", or "ema" for the UNet's averaged weights.

    Raises:
        CheckpointError: a part is missing, damaged or of a model that isn't supported, or weights have names that no
            network has; the message names them.
        BackendError: diffusers is not installed.
        UsageError: `--set` contradicts it, or `--weights` names a set that isn't there.
    """
    return model_of_parts(read_single_file(file, settings, wanted), settings)


def read_single_file(file: SingleFile, settings: Settings, wanted: str | None = None) -> Parts:
    """Read what `load_single_file` makes a model of; see there."""
    where, groups = file.where, _chosen(file, settings, wanted)
    family = family_of(where, groups)
    schedule = _schedule(file, family, groups, settings)
    assert groups.unet is not None
    found = file_parts(file, family, groups, settings, schedule.prediction)
    _check_names(where, found)
    folders = FolderParts(where.parent, settings)
    vae = _autoencoder(file, found, folders, settings)
    _say_strangers(where, groups, settings)
    return Parts(
        pipeline=_pipeline(family, found.unet),
        texts=tuple(
            Text(_part(file, text, f"{family.title}'s text encoder"), tokenizer)
            for text, tokenizer in zip(found.texts, _tokenizers(family, settings), strict=True)
        ),
        unet=_part(file, found.unet, family.title),
        vae=vae,
        schedule=schedule,
        schedule_origin=f"default of diffusers' {_scheduler(schedule.kind)}",
        where=where,
        source=lambda: _source(file, folders, family),
        # StableDiffusionXLPipeline's default.
        unsaid=family is SDXL,
    )


def file_parts(file: SingleFile, family: Family, groups: Groups, settings: Settings, prediction: str) -> FileParts:
    """Describe the networks of a file.

    Args:
        file: the file.
        family: as told from the groups.
        groups: its weights by part.
        settings: receives the number of heads.
        prediction: what the network gives; Stable Diffusion 2 in 768 pixels predicts v.

    Raises:
        CheckpointError: one is no network of its kind.
        BackendError: diffusers is not installed.
    """
    where = file.where
    assert groups.unet is not None
    # What shapes say comes first: they need no heads.
    first = unet_part(where, groups.unet, {})
    factor = 8
    vae = None
    if groups.vae is not None:
        vae = kl_part(where, groups.vae, _scale(file, family))
        factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    side = 768 if family is SD2 and prediction == "v_prediction" else family.side
    sizes = {"sample_size": side // factor, **_heads(where, first.config, family, settings)}
    unet = replace(first, config={**first.config, **sizes})
    return FileParts(family, unet, vae, tuple(text_part(where, group) for group in groups.texts))


def _chosen(file: SingleFile, settings: Settings, wanted: str | None) -> Groups:
    """Sort the weights into parts, with the UNet's averaged weights in the place of the others where asked for."""
    groups = grouped(file.shapes)
    average = groups.average
    if wanted is None and average is None:
        return groups
    candidates = [Candidate(RAW, "raw", None)]
    if average is not None:
        candidates.append(Candidate(AVERAGE, AVERAGED, None))
    taken = 0 if wanted is None else named(file.where, candidates, wanted)
    why = (
        f"--weights {wanted}"
        if wanted
        else "as diffusers takes them; merges keep another model's average: --weights ema"
    )
    settings.inferred(SETTING, candidates[taken].name, why)
    return replace(groups, unet=average) if taken else groups


def _pipeline(family: Family, unet: FilePart) -> str:
    """Return the class of diffusers whose defaults hold."""
    if family is SDXL:
        return "StableDiffusionXLPipeline"
    guided = unet.config.get("time_cond_proj_dim") is not None
    return "LatentConsistencyModelPipeline" if guided else "StableDiffusionPipeline"


def _heads(where: Path, config: Mapping[str, Any], family: Family, settings: Settings) -> dict[str, Any]:
    """Return diffusers' `attention_head_dim`, which counts heads: 8 in a block, or as many of 64 as its width holds."""
    if not config["use_linear_projection"]:
        return {"attention_head_dim": settings.choose("num_heads", Default(8, f"every {family.title} has 8"))}
    width = settings.choose("num_head_channels", Default(64, f"every {family.title} has heads of 64"))
    if width < 1 or any(channels % width for channels in config["block_out_channels"]):
        channels = ", ".join(map(str, config["block_out_channels"]))
        raise CheckpointError(
            f"{where}: its UNet is {channels} wide, no multiples of heads of {width}; say --set num_head_channels=N"
        )
    return {"attention_head_dim": [channels // width for channels in config["block_out_channels"]]}


def _scale(file: SingleFile, family: Family) -> float:
    stored = file.shapes.get("scale_factor")
    return family.scale if stored is None or stored.numel() != 1 else float(file.stored["scale_factor"])


def _check_names(where: Path, found: FileParts) -> None:
    unmatched = [name for part in found.all for name in part.unmatched]
    if unmatched:
        raise CheckpointError(
            f"{where}: {counted(unmatched, 'weight')} of its parts belong to no network of {found.family.title}: "
            f"{first_few(unmatched)};\n"
            f"cmexport inspect {where} --parts lists them all"
        )


def _say_strangers(where: Path, groups: Groups, settings: Settings) -> None:
    if groups.beside:
        settings.resolved["beside"] = Setting(
            "beside",
            len(groups.beside),
            "file",
            remark=f"{where}: {counted(groups.beside, 'weight')} beside its parts not used: {first_few(groups.beside)}",
        )


def _part(file: SingleFile, part: FilePart, origin: str) -> Part:
    return Part(part.config, lambda: part.state(file.stored), file.where, file.where, origin)


def _autoencoder(file: SingleFile, found: FileParts, folders: FolderParts, settings: Settings) -> Part:
    """Return what decodes: the file's own autoencoder, or the folder that `--decoder tiny:FOLDER` names."""
    asked = str(settings.said("decoder") or "")
    if asked.startswith("tiny:"):
        return folders.part("vae", vae_names, Path(asked.removeprefix("tiny:")))
    if found.vae is None:
        raise CheckpointError(
            f"{file.where}: holds no autoencoder (first_stage_model.*), which makes pictures of latents;\n"
            "give --decoder tiny:FOLDER, an AutoencoderTiny of this family (TAESD, TAESDXL), or a file with its VAE"
        )
    return _part(file, found.vae, f"{found.family.title}'s autoencoder")


def _tokenizers(family: Family, settings: Settings) -> tuple[Tokenizer, ...]:
    """Return CLIP's own, or what `--set tokenizer=FOLDER` names, for each text encoder."""
    folder = settings.choose("tokenizer", Default("clip", "CLIP's own vocabulary, which every Stable Diffusion has"))
    if folder == "clip":
        return tuple(clip_tokenizer(pad) for pad in family.pads)
    read = read_tokenizer(Path(folder))
    # SDXL's two differ in what pads alone.
    return (read, *(_padded(read, pad, Path(folder)) for pad in family.pads[1:]))


def _padded(tokenizer: Tokenizer, pad: str, folder: Path) -> Tokenizer:
    number = tokenizer.vocabulary.get(pad)
    if number is None:
        raise CheckpointError(f"{folder}: its vocabulary lacks {pad!r}, which pads for the second text encoder")
    specials = {special.text: special for special in (*tokenizer.specials, Special(pad, number))}
    ordered = tuple(sorted(specials.values(), key=lambda special: special.id))
    return replace(tokenizer, pad=number, specials=ordered)


def _schedule(file: SingleFile, family: Family, groups: Groups, settings: Settings) -> AlphaSchedule:
    """Decide the scheduler: what the file says, else what its name or nothing suggests, as a guess."""
    where = file.where
    if edm := [name for name in file.shapes if name.startswith("edm_")]:
        raise CheckpointError(f"{where}: has EDM's noise levels ({edm[0]}; Playground, CosXL), which are not supported")
    if "ztsnr" in file.shapes:
        raise CheckpointError(f"{where}: was trained with a zero terminal signal-to-noise ratio (ztsnr); not supported")
    assert groups.unet is not None
    told = {"time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"} & set(groups.unet.tensors)
    # What is merged makes few steps possible, whatever the checkpoint is called.
    suggested = lora_guess(settings)
    kind = settings.choose(
        "scheduler",
        Default("lcm", "guess: no file says how few steps it takes; this may be a many-step model", ambiguous=True),
        *([Default("lcm", f"the UNet takes an embedded guidance ({min(told)}), as LCM's do")] if told else []),
        *([suggested] if suggested else []),
    )
    prediction = settings.choose("prediction", *_prediction(file, family))
    fields = {**_TABLE, "prediction_type": prediction, "_class_name": _scheduler(kind)}
    schedule = AlphaSchedule.from_config({**fields, "timestep_spacing": "trailing"}, where)
    stored = file.shapes.get("alphas_cumprod")
    if stored is not None:
        table = file.stored["alphas_cumprod"].to(torch.float64).flatten()
        usual = torch.tensor(schedule.alphas_cumprod, dtype=torch.float64)
        if table.shape != usual.shape or not torch.allclose(table, usual, rtol=_TABLE_TOLERANCE, atol=0.0):
            raise CheckpointError(
                f"{where}: its alphas_cumprod are not Stable Diffusion's table of noise levels; such models are not "
                "supported"
            )
    return schedule


def _scheduler(kind: str) -> str:
    return next(name for name, short in KINDS.items() if short == kind)


def _prediction(file: SingleFile, family: Family) -> tuple[Default, ...]:
    """Return what the network predicts: the fallback, and before it what the file says."""
    if "v_pred" in file.shapes:
        return Default("epsilon", ""), Default("v_prediction", "v_pred in the file")
    said = _PREDICTIONS.get(file.metadata.get("modelspec.prediction_type", "").strip().lower())
    if said is not None:
        return Default("epsilon", ""), Default(said, "modelspec.prediction_type in its header")
    if family is not SD2:
        return (Default("epsilon", f"every {family.title} but few predicts the noise"),)
    if (value := _STEPS.get(file.training_step or 0)) is not None:
        return Default("epsilon", ""), Default(
            value, f"global_step {file.training_step}, which is Stability's own file"
        )
    guess = "guess: Stable Diffusion 2 predicts the noise in 512 pixels and v in 768, and no weight says which"
    return (Default("epsilon", guess, ambiguous=True),)


def _source(file: SingleFile, folders: FolderParts, family: Family) -> CheckpointSource:
    """Hash of the file; with a decoder from elsewhere, of both."""
    facts, form = file.facts, f"{family.title} in one file ({file.container})"
    if not folders.read:
        return CheckpointSource(facts.path, form, facts.sha256, facts.size_bytes)
    whole = facts_of_all(facts.path, [("file", facts), *folders.read])
    return CheckpointSource(facts.path, form, whole.sha256, whole.size_bytes)
