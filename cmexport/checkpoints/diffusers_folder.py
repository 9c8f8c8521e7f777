"""diffusers folders: `ConsistencyModelPipeline`, the third-party `ConsistencyPipeline`, and a bare `unet/`.

The network is the library's own `UNet2DModel`, built without memory and filled strictly: `from_pretrained` would drop
unknown weights with a warning, which is how the early ImageNet-64 uploads lost their mid-block norm unnoticed
(huggingface/diffusers issue 4414).
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.quiet import quiet_libraries
from cmexport.checkpoints.reading import FileFacts, container_of, file_facts, find_weights, read_torch, strict_weights
from cmexport.checkpoints.safetensors_file import read_safetensors
from cmexport.checkpoints.settings import OPENAI, Default, Family, SamplingConstants, Settings, resolve_sampling
from cmexport.checkpoints.sizes import parse_size, space_of
from cmexport.errors import BackendError, CheckpointError
from cmexport.model import CheckpointSource, ConsistencyModel, Setting
from cmexport.networks.diffusers_unet import DiffusersUnet
from cmexport.networks.meta import on_meta
from cmexport.sampling.preconditioning import c_noise_at

_STEM = "diffusion_pytorch_model"
_WEIGHT_FILES = (f"{_STEM}.safetensors", f"{_STEM}.bin", f"{_STEM}.fp16.safetensors", f"{_STEM}.fp16.bin")
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
        import huggingface_hub.utils
    except ImportError as error:
        raise BackendError(f"{identity}: hub models need diffusers: pip install 'cmexport[diffusers]'") from error
    patterns = ["*.json", "unet/*.json", "unet/*.safetensors", "unet/*.bin", "scheduler/*.json"]
    try:
        with quiet_libraries():
            return Path(huggingface_hub.snapshot_download(identity, local_files_only=True, allow_patterns=patterns))
    except Exception:  # Any reason for not being cached leads to the same second try.
        logging.getLogger(__name__).debug("%s is not in the cache", identity)
    try:
        with quiet_libraries():
            return Path(huggingface_hub.snapshot_download(identity, allow_patterns=patterns))
    except Exception as error:
        raise CheckpointError(
            f"{identity}: no such file, and as a hub model it is neither in the local cache nor reachable "
            f"({type(error).__name__});\nwith network: hf download {identity}"
        ) from error


def load_folder(folder: Path, settings: Settings) -> ConsistencyModel:
    """Read a diffusers folder.

    Raises:
        CheckpointError: it is no such folder, another pipeline, damaged, or a broken early revision.
        BackendError: diffusers is not installed.
        UsageError: `--set` contradicts it.
    """
    layout = _layout(folder)
    config = _read_json(layout.unet / "config.json")
    if config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise CheckpointError(f"{layout.unet}: holds a {config['_class_name']}; only UNet2DModel is supported")
    _check_plausible(layout.unet / "config.json", config)
    facts, tensors = _read_weights(layout.unet)
    config, tensors = _mend(facts.path, config, tensors, settings)
    network = _build(layout.unet, config, facts, tensors, settings)

    size = settings.choose("image_size", *_sizes(layout.unet / "config.json", config))
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
        source=CheckpointSource(folder, f"diffusers ({layout.kind})", facts.sha256, facts.size_bytes),
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
    """What to take for the picture size: a guess, and before it `sample_size` where the configuration has one.

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
        name = str(_read_json(index).get("_class_name"))
        if name == "ConsistencyModelPipeline":
            return _Layout(folder / "unet", folder / "scheduler" / "scheduler_config.json", OPENAI, name)
        if name == "ConsistencyPipeline":
            return _Layout(folder / "unet", None, THIRD_PARTY, name)
        raise CheckpointError(f"{folder}: is a {name[:80]}; only ConsistencyModelPipeline is supported")
    # A network out of a pipeline keeps the scheduler that lies beside it: guessing what a file states would be wrong.
    if (folder / "config.json").is_file():
        return _Layout(folder, _scheduler_in(folder.parent), OPENAI, "UNet2DModel folder")
    if (folder / "unet" / "config.json").is_file():
        return _Layout(folder / "unet", _scheduler_in(folder), OPENAI, "UNet2DModel folder")
    raise CheckpointError(f"{folder}: is a folder, but no diffusers pipeline (model_index.json) or unet (config.json)")


def _scheduler_in(folder: Path) -> Path | None:
    path = folder / "scheduler" / "scheduler_config.json"
    return path if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
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
    """A configuration is data from outside: no field may ask for a network of millions of layers."""

    def numbers(value: Any) -> Iterable[float]:
        if isinstance(value, list):
            for item in value:
                yield from numbers(item)
        elif isinstance(value, int | float):
            yield value

    for name, value in config.items():
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


def _read_weights(folder: Path) -> tuple[FileFacts, Mapping[str, Tensor]]:
    for name in _WEIGHT_FILES:
        path = folder / name
        if path.is_file():
            facts = file_facts(path)
            if path.suffix == ".safetensors":
                return facts, read_safetensors(path)
            if container_of(path) != "torch":
                raise CheckpointError(f"{path}: torch.save did not write it")
            container, content = read_torch(facts)
            return facts, find_weights(facts, container, content).tensors
    if any(folder.glob(f"{_STEM}*.index.json")):
        raise CheckpointError(f"{folder}: its weights are split into several files; save them as one")
    raise CheckpointError(f"{folder}: holds none of {', '.join(_WEIGHT_FILES)}")


def _mend(
    path: Path, config: dict[str, Any], tensors: Mapping[str, Tensor], settings: Settings
) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    renamed = {}
    for key, tensor in tensors.items():
        for old, new in _OLD_NAMES:
            key = key.replace(old, new)
        renamed[key] = tensor
    if config.get("resnet_time_scale_shift") == "scale_shift" and config.get("attn_norm_num_groups") is None:
        # Until diffusers PR 4863 such a network was built without the mid block's GroupNorm, silently; since then the
        # configuration says null where it has none and was trained so.
        if "mid_block.attentions.0.group_norm.weight" in renamed:
            guess = Default(32, "guess: the mid block's norm is in the weights, not in config.json", ambiguous=True)
            return {**config, "attn_norm_num_groups": settings.choose("groups", guess)}, renamed
        attention = any(key.startswith("mid_block.attentions.0.") for key in renamed)
        if attention and "attn_norm_num_groups" not in config:
            raise CheckpointError(
                f"{path}: an early, broken upload: the mid block's attention lost its norm (diffusers issue 4414);\n"
                'download the current revision, or, if it was trained so, add "attn_norm_num_groups": null to '
                "config.json"
            )
    return config, renamed


def _build(
    folder: Path, config: Mapping[str, Any], facts: FileFacts, tensors: Mapping[str, Tensor], settings: Settings
) -> DiffusersUnet:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise BackendError(f"{folder}: diffusers folders need diffusers: pip install 'cmexport[diffusers]'") from error
    factory: Any = UNet2DModel
    parameters = inspect.signature(factory.__init__).parameters
    known = {name: value for name, value in config.items() if name in parameters}
    _note_unknown(set(config) - set(known), config, settings)
    for name, value in known.items():
        default = parameters[name].default
        if isinstance(value, list) and name != "sample_size" and not isinstance(default, tuple):
            raise CheckpointError(
                f"{folder / 'config.json'}: {name} is a list, {value}; UNet2DModel has one for the whole network"
            )
    try:
        with quiet_libraries():
            unet: nn.Module = on_meta(lambda: factory.from_config(known))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{folder / 'config.json'}: describes no UNet2DModel ({reason[0][:200]})") from error
    expected = {key: value.shape for key, value in unet.state_dict().items()}
    unet.load_state_dict(strict_weights(facts.path, tensors, expected), strict=True, assign=True)
    network = DiffusersUnet(unet)
    network.eval().requires_grad_(False)
    return network


def _note_unknown(names: Iterable[str], config: Mapping[str, Any], settings: Settings) -> None:
    """The library leaves out what it doesn't know; a value that asks for something is said aloud."""
    asking = sorted(n for n in names if not n.startswith("_") and config[n] not in (None, False, "", [], {}))
    if asking:
        remark = f"unet/config.json: this diffusers' UNet2DModel has no {', '.join(asking)[:200]}; not used"
        settings.resolved["unknown_fields"] = Setting(
            "unknown_fields", ",".join(asking), "unet/config.json", False, remark
        )


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
        if wanted is int and value != int(value):
            raise CheckpointError(f"{path}: {theirs} is {value}, not a whole number")
        preferred[ours] = Default(wanted(value), "scheduler_config.json")
    return preferred
