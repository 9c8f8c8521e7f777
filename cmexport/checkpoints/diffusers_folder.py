"""diffusers folders: `ConsistencyModelPipeline`, the third-party `ConsistencyPipeline`, and a bare `unet/`.

The network is the library's own `UNet2DModel`, built without memory and filled strictly: `from_pretrained` would drop
unknown weights with a warning, which is how the early ImageNet-64 uploads lost their mid-block norm unnoticed
(huggingface/diffusers issue 4414).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.choosing import choose_set
from cmexport.checkpoints.folders import (
    EMA_FIELDS,
    NetworkFolder,
    advice_for,
    choose_file,
    choose_network,
    weights_files,
)
from cmexport.checkpoints.reading import FileFacts, container_of, file_facts, find_weights, read_torch, strict_weights
from cmexport.checkpoints.registered import with_registered
from cmexport.checkpoints.safetensors_file import read_safetensors
from cmexport.checkpoints.settings import OPENAI, Default, Family, Settings, resolve_sampling
from cmexport.checkpoints.sharded import read_shards
from cmexport.checkpoints.weight_sets import WeightSet, weight_sets
from cmexport.errors import BackendError, CheckpointError
from cmexport.files import require_file
from cmexport.model import CheckpointSource, ConsistencyModel
from cmexport.networks.diffusers_unet import DiffusersUnet
from cmexport.networks.meta import on_meta

_MAX_CONFIG_BYTES = 1_000_000
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
# Attention names before diffusers 0.17.
_OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))


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


def fetch_from_hub(identity: str) -> Path:
    """The folder of a hub model: from the local cache, else downloaded.

    Raises:
        BackendError: `huggingface_hub` is not installed.
        CheckpointError: not cached and not reachable.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise BackendError(f"{identity}: hub models need diffusers: pip install 'cmexport[diffusers]'") from error
    # A bare network has its weights at the top. `*` also matches slashes: *.safetensors would fetch a whole pipeline.
    weights = ["unet*/*.safetensors", "unet*/*.bin", "diffusion_pytorch_model*", "model.safetensors"]
    patterns = ["*.json", *weights]
    try:
        return Path(huggingface_hub.snapshot_download(identity, local_files_only=True, allow_patterns=patterns))
    except Exception:  # Any reason for not being cached leads to the same second try.
        logging.getLogger(__name__).debug("%s is not in the cache", identity)
    try:
        return Path(huggingface_hub.snapshot_download(identity, allow_patterns=patterns))
    except Exception as error:
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
    if own.is_file() and "_class_name" not in _read_json(own):
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
    layout = _layout(folder)
    unet, wanted = (layout.unet, None) if given is not None else _choose_unet(folder, layout, wanted, settings)
    config = _read_json(unet / "config.json")
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise CheckpointError(f"{unet}: holds a {config['_class_name']}; only UNet2DModel is supported")
    config = {name: value for name, value in config.items() if name not in EMA_FIELDS}
    _check_plausible(unet / "config.json", config)
    facts, tensors = (given.file, given.tensors) if given is not None else _read_weights(unet, wanted, settings, config)
    config, tensors = _mend(facts.path, config, tensors)
    network = _build(unet, config, facts, tensors)

    size = config.get("sample_size")
    if isinstance(size, list):
        size = size[0] if len(set(size)) == 1 else None
    if size is None:
        size = settings.choose("image_size", Default(32, "guess: config.json has no sample_size", ambiguous=True))
    else:
        settings.inferred("image_size", size, "unet/config.json")
    channels = config.get("in_channels", 3)
    settings.inferred("in_channels", channels, "unet/config.json")
    classes = config.get("num_class_embeds")
    if classes is not None:
        settings.inferred("num_classes", classes, "unet/config.json")
    preferred = _scheduler(layout.scheduler) if layout.scheduler else {}
    constants = resolve_sampling(settings, layout.family, preferred)
    return assemble(
        network=network,
        architecture={"name": "diffusers.UNet2DModel", **{k: v for k, v in config.items() if not k.startswith("_")}},
        channels=channels,
        image_size=size,
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


def _layout(folder: Path) -> _Layout:
    index = folder / "model_index.json"
    if index.is_file():
        name = str(_read_json(index).get("_class_name"))
        if name == "ConsistencyModelPipeline":
            return _Layout(folder / "unet", folder / "scheduler" / "scheduler_config.json", OPENAI, name)
        if name == "ConsistencyPipeline":
            return _Layout(folder / "unet", None, THIRD_PARTY, name)
        raise CheckpointError(f"{folder}: is a {name[:80]}; only ConsistencyModelPipeline is supported")
    if (folder / "config.json").is_file():
        return _Layout(folder, None, OPENAI, "UNet2DModel folder")
    if (folder / "unet" / "config.json").is_file():
        return _Layout(folder / "unet", None, OPENAI, "UNet2DModel folder")
    if any_unet := _unets(folder):
        return _Layout(any_unet[0].path, None, OPENAI, "UNet2DModel folder")
    advice = advice_for(folder)
    raise CheckpointError(
        f"{folder}: is a folder, but no diffusers pipeline (model_index.json) or unet (config.json)"
        + (f";\n{advice}" if advice else "")
    )


def _unets(folder: Path) -> list[NetworkFolder]:
    """The folder itself and its subfolders, as far as they hold a UNet2DModel with weights."""
    found = []
    for path in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if not (path / "config.json").is_file() or not weights_files(path):
            continue
        try:
            config = _read_json(path / "config.json")
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


def _read_json(path: Path) -> dict[str, Any]:
    require_file(path, "a configuration")
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: is larger than any configuration")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error})") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is no JSON object")
    return content


def _check_plausible(path: Path, config: Mapping[str, Any]) -> None:
    """A configuration is data from outside: no field may ask for a network of millions of layers.

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
        order = list(_skeleton(folder, config).state_dict())
        content = {**together, name: {key: own[key] for key in order if key in own} | own}
    if sets := weight_sets(content):
        return facts, choose_set(facts.path, sets, wanted, settings).tensors
    return facts, find_weights(facts, container, content).tensors


def read_state(facts: FileFacts) -> tuple[str, Any]:
    """Container and content of a file of weights in a folder of diffusers or accelerate.

    Raises:
        CheckpointError: damaged, or written by neither.
    """
    if facts.path.suffix == ".safetensors":
        return "safetensors", read_safetensors(facts.path)
    if container_of(facts.path) != "torch":
        raise CheckpointError(f"{facts.path}: torch.save did not write it")
    return read_torch(facts)


def _mend(
    path: Path, config: dict[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    renamed = {}
    for key, tensor in tensors.items():
        for old, new in _OLD_NAMES:
            key = key.replace(old, new)
        renamed[key] = tensor
    if config.get("resnet_time_scale_shift") == "scale_shift" and config.get("attn_norm_num_groups") is None:
        # Until diffusers PR 4863 such a network was built without the mid block's GroupNorm, silently.
        if "mid_block.attentions.0.group_norm.weight" in renamed:
            return {**config, "attn_norm_num_groups": 32}, renamed
        if any(key.startswith("mid_block.attentions.0.") for key in renamed):
            raise CheckpointError(
                f"{path}: an early, broken upload: the mid block's attention lost its norm (diffusers issue 4414);\n"
                "download the current revision"
            )
    return config, renamed


def _skeleton(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The network without memory for its weights."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise BackendError(f"{folder}: diffusers folders need diffusers: pip install 'cmexport[diffusers]'") from error
    try:
        factory: Any = UNet2DModel
        unet: nn.Module = on_meta(lambda: factory.from_config(dict(config)))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{folder / 'config.json'}: describes no UNet2DModel ({reason[0][:200]})") from error
    return unet


def _build(folder: Path, config: Mapping[str, Any], facts: FileFacts, tensors: Mapping[str, Tensor]) -> nn.Module:
    unet = _skeleton(folder, config)
    expected = {key: value.shape for key, value in unet.state_dict().items()}
    unet.load_state_dict(strict_weights(facts.path, tensors, expected), strict=True, assign=True)
    return DiffusersUnet(unet).eval().requires_grad_(False)


def _scheduler(path: Path) -> dict[str, Default]:
    config = _read_json(path)
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
        preferred[ours] = Default(wanted(value), "scheduler_config.json")
    return preferred
