"""diffusers folders: `ConsistencyModelPipeline`, the third-party `ConsistencyPipeline`, and a bare `unet/`.

The network is the library's own `UNet2DModel`, built without memory and filled strictly: `from_pretrained` would drop
unknown weights with a warning, which is how the early ImageNet-64 uploads lost their mid-block norm unnoticed
(huggingface/diffusers issue 4414).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.choosing import choose_set
from cmexport.checkpoints.diffusers_networks import fields_of, filled, read_state, renamed, without_weights
from cmexport.checkpoints.folders import (
    EMA_FIELDS,
    NetworkFolder,
    advice_for,
    choose_file,
    choose_network,
    weights_files,
)
from cmexport.checkpoints.latent_folder import PIPELINES, is_latent_pipeline, is_whole, load_latent_folder
from cmexport.checkpoints.quiet import quiet_libraries
from cmexport.checkpoints.reading import FileFacts, file_facts, find_weights
from cmexport.checkpoints.registered import with_registered
from cmexport.checkpoints.settings import OPENAI, Default, Family, SamplingConstants, Settings, resolve_sampling
from cmexport.checkpoints.sharded import read_shards
from cmexport.checkpoints.sizes import parse_size, space_of
from cmexport.checkpoints.weight_sets import WeightSet, weight_sets
from cmexport.errors import BackendError, CheckpointError
from cmexport.files import read_json
from cmexport.model import CheckpointSource, ConsistencyModel, Setting
from cmexport.networks.diffusers_unet import DiffusersUnet
from cmexport.sampling.preconditioning import c_noise_at

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")

_FILE_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".ckpt", ".bin", ".safetensors", ".onnx", ".npz", ".py", ".toml"})

# junhsss/consistency-models: constants are arguments of the call, with these defaults.
THIRD_PARTY = Family(
    "the third-party ConsistencyPipeline", precond="consistency_pipeline", c_noise="sigma", levels=18, clamp=True
)
# scheduler_config.json of CMStochasticIterativeScheduler, by our names.
_SCHEDULER_FIELDS = {
    "levels": "num_train_timesteps",
    "sigma_min": "sigma_min",
    "sigma_max": "sigma_max",
    "sigma_data": "sigma_data",
    "rho": "rho",
    "clamp": "clip_denoised",
}
# Arguments of UNet2DModel that decide how many weights it has, or how large a picture is.
_SHAPING = frozenset(
    {
        *("sample_size", "in_channels", "out_channels", "layers_per_block", "block_out_channels", "mid_block_type"),
        *("down_block_types", "up_block_types", "attention_head_dim", "norm_num_groups", "attn_norm_num_groups"),
        *("num_class_embeds", "num_train_timesteps", "time_embedding_dim", "mid_block_scale_factor"),
        *("downsample_padding", "freq_shift"),
    }
)


@dataclass(frozen=True)
class _Layout:
    """Where the parts of a folder lie."""

    unet: Path
    scheduler: Path | None
    family: Family
    kind: str


def is_hub_id(text: str) -> bool:
    """Whether a checkpoint argument has the form `owner/name` and can't be meant as a local file."""
    local = Path(text).suffix.lower() in _FILE_SUFFIXES or Path(text).parent.exists()
    return _HUB_ID.match(text) is not None and not local


def fetch_from_hub(identity: str, wanted: str | None = None) -> Path:
    """Return the folder of a hub model: from the local cache, else downloaded.

    Latent pipelines hold each part two to six times (Stable Diffusion 1.5's UNet has 17 GB): only safetensors of the
    `wanted` variant are fetched where every part has them.

    Raises:
        BackendError: `huggingface_hub` is not installed.
        CheckpointError: not cached and not reachable.
    """
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError as error:
        raise BackendError(f"{identity}: hub models need diffusers: pip install 'cmexport[diffusers]'") from error
    # A bare network has its weights at the top. `*` also matches slashes: *.safetensors would fetch a whole pipeline.
    few = ["*.json", "README.md", "diffusion_pytorch_model*", "model.safetensors", "tokenizer/*", "tokenizer_2/*"]
    # Parts of a latent pipeline; not its safety checker, which has as many weights as all else.
    parts = ("unet*", "text_encoder", "text_encoder_2", "vae")
    few += [f"{part}/*.safetensors" for part in parts]
    everything = [*few, *(f"{part}/*.bin" for part in parts)]
    others = [f"*.{variant}[.-]*" for variant in ("fp16", "bf16", "non_ema") if variant != wanted]
    cached: Path | None = None
    try:
        with quiet_libraries():
            cached = Path(huggingface_hub.snapshot_download(identity, local_files_only=True, allow_patterns=everything))
        if is_whole(cached, wanted) is not False:
            return cached
    except Exception:  # Any reason for not being cached leads to the same second try.
        logging.getLogger(__name__).debug("%s is not in the cache", identity)
    try:
        with quiet_libraries():
            there = huggingface_hub.snapshot_download(identity, allow_patterns=few, ignore_patterns=others)
            if not is_whole(Path(there), wanted):
                there = huggingface_hub.snapshot_download(identity, allow_patterns=everything)
        return Path(there)
    except Exception as error:
        if cached is not None:
            return cached
        raise CheckpointError(
            f"{identity}: no such file, and as a hub model it is neither in the local cache nor reachable "
            f"({type(error).__name__});\nwith network: hf download {identity}"
        ) from error


@dataclass(frozen=True)
class GivenWeights:
    """Weights that were read from a file by its name, instead of the folder's own."""

    file: FileFacts
    tensors: Mapping[str, Tensor]


def holds_diffusers(folder: Path) -> bool:
    """Whether a folder says that it holds networks of diffusers: a pipeline's index, or a configuration of a UNet."""
    if (folder / "model_index.json").exists():
        return True
    own = folder / "config.json"
    if own.is_file() and "_class_name" not in read_json(own):
        # Of the hub's mixin, any class's arguments; or of a UNet, stripped: its weights tell.
        kinds = {s.format for f in weights_files(folder).values() if not f.sharded for s in _sets_in(f.path)}
        return not kinds or "diffusers" in kinds
    return own.exists() or bool(_unets(folder)) or (folder / "unet" / "config.json").exists()


def _sets_in(path: Path) -> tuple[WeightSet, ...]:
    return weight_sets(read_state(file_facts(path))[1])


def load_folder(
    folder: Path, settings: Settings, wanted: str | None = None, given: GivenWeights | None = None, reference: str = ""
) -> ConsistencyModel:
    """Read a diffusers folder.

    Args:
        folder: a pipeline, a training folder, or a network alone.
        settings: collects the decisions.
        wanted: which weights, as `--weights` names them: a subfolder, a variant, or what a file in it holds.
        given: weights to use with the folder's configuration.
        reference: hub id, if the folder lies in its cache.

    Raises:
        CheckpointError: it is no such folder, another pipeline, damaged, or a broken early revision.
        BackendError: diffusers is not installed.
        UsageError: `--set` contradicts it.
    """
    index = folder / "model_index.json"
    if given is None and index.is_file() and is_latent_pipeline(name := str(read_json(index).get("_class_name"))):
        return load_latent_folder(folder, name, settings, wanted, reference)
    layout = _layout(folder)
    unet, wanted = (layout.unet, None) if given is not None else _choose_unet(folder, layout, wanted, settings)
    config = read_json(unet / "config.json")
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise CheckpointError(f"{unet}: holds a {config['_class_name']}; only UNet2DModel is supported")
    config = {name: value for name, value in config.items() if name not in EMA_FIELDS}
    _check_plausible(unet / "config.json", config)
    facts, tensors = (given.file, given.tensors) if given is not None else _read_weights(unet, wanted, settings, config)
    config, tensors = _mend(facts.path, config, tensors, settings)
    network = _build(unet, config, facts, tensors, settings)

    size = settings.choose("image_size", *_sizes(unet / "config.json", config))
    channels = config.get("in_channels", 3)
    settings.inferred("in_channels", channels, "unet/config.json")
    classes = config.get("num_class_embeds")
    if classes is not None:
        settings.inferred("num_classes", classes, "unet/config.json")
    preferred = _scheduler(layout.scheduler) if layout.scheduler else {}
    constants = resolve_sampling(settings, layout.family, preferred)
    _check_time(layout.unet / "config.json", config, constants)
    return assemble(
        network=network,
        architecture={"name": "diffusers.UNet2DModel", **{k: v for k, v in config.items() if not k.startswith("_")}},
        space=space_of(facts.path.parent, channels, size, network.multiple),
        classes=classes,
        constants=constants,
        source=CheckpointSource(
            folder if given is None else facts.path,
            f"diffusers ({layout.kind})",
            facts.sha256,
            facts.size_bytes,
            reference,
        ),
        settings=settings.finish(),
    )


def _check_time(path: Path, config: Mapping[str, Any], constants: SamplingConstants) -> None:
    """Refuse a time embedding that takes logarithms of what may be negative.

    Raises:
        CheckpointError: it would get such numbers.
    """
    fourier = config.get("time_embedding_type") == "fourier"
    if fourier and c_noise_at(constants.c_noise, constants.noise.sigma_min) <= 0:
        raise CheckpointError(
            f"{path}: time_embedding_type 'fourier' takes the logarithm of its input, and c_noise "
            f"'{constants.c_noise}' is negative at small noise levels;\nif the network was fed sigma itself: "
            "--set c_noise=sigma"
        )


def _sizes(path: Path, config: Mapping[str, Any]) -> list[Default]:
    """Return what to take for the picture size: a guess, and before it `sample_size` where the configuration has one.

    Raises:
        CheckpointError: `sample_size` is no size.
    """
    guess = Default(32, "guess: config.json has no sample_size", ambiguous=True)
    stated = config.get("sample_size")
    if stated is None:
        return [guess]
    sides = stated if isinstance(stated, list) else [stated]
    try:
        # JSON written by other programs has 32.0 and "32" too.
        whole = [str(int(side)) if isinstance(side, float) and side.is_integer() else str(side) for side in sides]
        return [guess, Default(parse_size(",".join(whole)), "unet/config.json")]
    except ValueError as error:
        raise CheckpointError(f"{path}: sample_size {str(stated)[:40]}: {_reason(error)}") from error


def _reason(error: ValueError) -> str:
    return str(error) if str(error).startswith("must") else "must be a number, or height and width as [16, 32]"


def _layout(folder: Path) -> _Layout:
    index = folder / "model_index.json"
    if index.is_file():
        name = str(read_json(index).get("_class_name"))
        if name == "ConsistencyModelPipeline":
            return _Layout(folder / "unet", folder / "scheduler" / "scheduler_config.json", OPENAI, name)
        if name == "ConsistencyPipeline":
            return _Layout(folder / "unet", None, THIRD_PARTY, name)
        known = ("ConsistencyModelPipeline", *PIPELINES)
        raise CheckpointError(f"{folder}: is a {name[:80]}; known are {', '.join(known)}")
    # A network out of a pipeline keeps the scheduler that lies beside it: guessing what a file states would be wrong.
    if (folder / "config.json").is_file():
        return _Layout(folder, _scheduler_in(folder.parent), OPENAI, "UNet2DModel folder")
    if (folder / "unet" / "config.json").is_file():
        return _Layout(folder / "unet", _scheduler_in(folder), OPENAI, "UNet2DModel folder")
    if any_unet := _unets(folder):
        return _Layout(any_unet[0].path, _scheduler_in(folder), OPENAI, "UNet2DModel folder")
    advice = advice_for(folder)
    raise CheckpointError(
        f"{folder}: is a folder, but no diffusers pipeline (model_index.json) or unet (config.json)"
        + (f";\n{advice}" if advice else "")
    )


def _unets(folder: Path) -> list[NetworkFolder]:
    """Return the folder itself and its subfolders, as far as they hold a UNet2DModel with weights."""
    found = []
    for path in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if not (path / "config.json").is_file() or not weights_files(path):
            continue
        try:
            config = read_json(path / "config.json")
        except CheckpointError:
            continue  # Said by the reading that follows, if it is the one that counts.
        if config.get("_class_name", "UNet2DModel") == "UNet2DModel":
            found.append(NetworkFolder("." if path == folder else path.name, path, config))
    return found


def _choose_unet(folder: Path, layout: _Layout, wanted: str | None, settings: Settings) -> tuple[Path, str | None]:
    found = _unets(folder)
    if not any(f.path == layout.unet for f in found) and len(found) < 2:
        return layout.unet, wanted
    chosen, left = choose_network(folder, found, wanted, settings)
    return chosen.path, left


def _scheduler_in(folder: Path) -> Path | None:
    path = folder / "scheduler" / "scheduler_config.json"
    return path if path.is_file() else None


def _check_plausible(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration, which is data from outside, that asks for a network of millions of layers.

    Only fields that shape the network are judged; training notes what it likes beside them (steps, dates, seeds).
    """

    def numbers(value: Any) -> Iterable[float]:
        if isinstance(value, list):
            for item in value:
                yield from numbers(item)
        elif isinstance(value, int | float):
            yield value

    for name, value in config.items():
        if name not in _SHAPING:
            continue
        if any(abs(number) > 100_000 for number in numbers(value)) or (isinstance(value, list) and len(value) > 32):
            raise CheckpointError(f"{path}: {name} is implausible")
    layers = config.get("layers_per_block", 2)
    if not isinstance(layers, int) or not 1 <= layers <= 64:
        raise CheckpointError(f"{path}: layers_per_block is implausible")
    if config.get("class_embed_type") is not None:
        raise CheckpointError(f"{path}: class_embed_type '{config['class_embed_type']}' is not supported")
    channels, returned = config.get("in_channels", 3), config.get("out_channels", 3)
    if channels != returned:
        raise CheckpointError(
            f"{path}: takes {channels} channels and returns {returned}; a consistency model returns a picture, no "
            "variance beside it"
        )
    if config.get("time_embedding_type") == "learned":
        raise CheckpointError(
            f"{path}: time_embedding_type 'learned' has a vector for each whole timestep; the noise level of a "
            "consistency model is any number"
        )


def _read_weights(
    folder: Path, wanted: str | None, settings: Settings, config: Mapping[str, Any]
) -> tuple[FileFacts, Mapping[str, Tensor]]:
    files = weights_files(folder)
    if not files:
        raise CheckpointError(
            f"{folder}: holds none of the files of weights that diffusers and accelerate write "
            "(diffusion_pytorch_model.safetensors, model.safetensors, pytorch_model.bin, ...)"
        )
    chosen, wanted = choose_file(folder, files, wanted, settings)
    if chosen.sharded:
        content: Any
        facts, content = read_shards(chosen.path, lambda facts: find_weights(facts, *read_state(facts)).tensors)
        container = "shards"
    else:
        facts = file_facts(chosen.path)
        container, content = read_state(facts)
    facts, together = with_registered(facts, content)
    if together is not content:
        # safetensors sorts names; the list beside them stands in the order of the class.
        own, name = dict(content), facts.path.name.split(".")[0]
        order = list(_skeleton(folder, config, settings).state_dict())
        content = {**together, name: {key: own[key] for key in order if key in own} | own}
    if sets := weight_sets(content):
        return facts, choose_set(facts.path, sets, wanted, settings).tensors
    return facts, find_weights(facts, container, content).tensors


def _mend(
    path: Path, config: dict[str, Any], tensors: Mapping[str, Tensor], settings: Settings
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    named = renamed(tensors)
    if config.get("resnet_time_scale_shift") == "scale_shift" and config.get("attn_norm_num_groups") is None:
        # Until diffusers PR 4863 such a network was built without the mid block's GroupNorm, silently; since then the
        # configuration says null where it has none and was trained so.
        if "mid_block.attentions.0.group_norm.weight" in named:
            guess = Default(32, "guess: the mid block's norm is in the weights, not in config.json", ambiguous=True)
            return {**config, "attn_norm_num_groups": settings.choose("groups", guess)}, named
        attention = any(key.startswith("mid_block.attentions.0.") for key in named)
        if attention and "attn_norm_num_groups" not in config:
            raise CheckpointError(
                f"{path}: an early, broken upload: the mid block's attention lost its norm (diffusers issue 4414);\n"
                'download the current revision, or, if it was trained so, add "attn_norm_num_groups": null to '
                "config.json"
            )
    return config, named


def _skeleton(folder: Path, config: Mapping[str, Any], settings: Settings) -> nn.Module:
    """Build the network without memory for its weights."""
    parameters = fields_of("UNet2DModel", folder)
    _note_unknown(set(config) - set(parameters), config, settings)
    for name, value in config.items():
        many = name in parameters and isinstance(value, list) and name != "sample_size"
        if many and not isinstance(parameters[name].default, tuple):
            raise CheckpointError(
                f"{folder / 'config.json'}: {name} is a list, {value}; UNet2DModel has one for the whole network"
            )
    return without_weights("UNet2DModel", folder / "config.json", config)


def _build(
    folder: Path, config: Mapping[str, Any], facts: FileFacts, tensors: Mapping[str, Tensor], settings: Settings
) -> DiffusersUnet:
    network = DiffusersUnet(filled(_skeleton(folder, config, settings), facts.path, tensors))
    return network.eval().requires_grad_(False)


def _note_unknown(names: Iterable[str], config: Mapping[str, Any], settings: Settings) -> None:
    """Say aloud which values the library leaves out, since it doesn't know them, though they ask for something."""
    asking = sorted(n for n in names if not n.startswith("_") and config[n] not in (None, False, "", [], {}))
    if asking:
        remark = f"unet/config.json: this diffusers' UNet2DModel has no {', '.join(asking)[:200]}; not used"
        settings.resolved["unknown_fields"] = Setting(
            "unknown_fields", ",".join(asking), "unet/config.json", False, remark
        )


def _scheduler(path: Path) -> dict[str, Default]:
    config = read_json(path)
    name = config.get("_class_name", "CMStochasticIterativeScheduler")
    if name != "CMStochasticIterativeScheduler":
        raise CheckpointError(f"{path}: is a {str(name)[:80]}, not CMStochasticIterativeScheduler")
    if config.get("s_noise", 1.0) != 1.0:
        raise CheckpointError(f"{path}: s_noise {config['s_noise']} is not supported, only 1.0")
    preferred = {}
    for ours, theirs in _SCHEDULER_FIELDS.items():
        if theirs not in config:
            continue
        value = config[theirs]
        wanted = bool if ours == "clamp" else int if ours == "levels" else float
        if isinstance(value, bool) != (wanted is bool) or not isinstance(value, bool | int | float):
            raise CheckpointError(f"{path}: {theirs} is {str(value)[:40]}")
        if wanted is not bool and not 0 < value < 1e9:
            raise CheckpointError(f"{path}: {theirs} is {value}")
        if wanted is int and value != int(value):
            raise CheckpointError(f"{path}: {theirs} is {value}, not a whole number")
        preferred[ours] = Default(wanted(value), "scheduler_config.json")
    return preferred
