"""What lies in a folder: networks in subfolders (`unet/`, `unet_ema/`), and the files of weights of one of them.

File names are diffusers' (`diffusion_pytorch_model.fp16.safetensors`, in one file or in shards with an index) and
accelerate's (`model.safetensors`, `pytorch_model.bin`, and `model_1.safetensors` for a second network).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmexport.checkpoints.choosing import SETTING, Candidate, UnknownWeightsError, named, pick, several
from cmexport.checkpoints.roles import AVERAGED, role_of
from cmexport.checkpoints.settings import Settings
from cmexport.errors import CheckpointError

# What diffusers' EMAModel adds to the configuration of the network that it averages.
EMA_FIELDS = frozenset(
    {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}
)
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_NAME = r"^(?P<stem>diffusion_pytorch_model|model|pytorch_model)"
_ONE = re.compile(_NAME + r"(\.(?P<variant>\w+(\.\w+)*))?\.(?P<kind>safetensors|bin)$")
# diffusers puts the variant before the last ending, older releases before the container's.
_INDEX = re.compile(_NAME + r"(\.(?P<early>\w+))?\.(?P<kind>safetensors|bin)\.index(\.(?P<late>\w+))?\.json$")
_ACCELERATE = re.compile(r"^(pytorch_)?model(_\d+)?\.(safetensors|bin)$")
_PRECISIONS = frozenset({"fp16", "bf16", "fp32", "fp8", "int8"})


@dataclass(frozen=True)
class NetworkFolder:
    """A folder with the configuration of a network: "." itself, or a subfolder by name."""

    name: str
    path: Path
    config: Mapping[str, Any]

    @property
    def role(self) -> str:
        """The role of its weights: averages of diffusers say so in their configuration too."""
        role = role_of((self.name,))
        return AVERAGED if role == "raw" and "optimization_step" in self.config else role


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, or the index of several; `variant` is "" for the usual one."""

    path: Path
    variant: str

    @property
    def sharded(self) -> bool:
        """Whether it is an index."""
        return self.path.suffix == ".json"


def weights_files(folder: Path) -> dict[str, WeightsFile]:
    """Return the weights in a folder, by variant; of several containers the one that diffusers takes.

    Raises:
        CheckpointError: one variant lies there whole and in shards, and nothing says which is meant.
    """
    found: dict[str, dict[str, WeightsFile]] = {}
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    matches = [m for m in (_ONE.match(name) or _INDEX.match(name) for name in names) if m]
    stem = next((s for s in _STEMS if any(m["stem"] == s for m in matches)), None)
    for match in matches:
        if match["stem"] != stem:
            continue
        index = match.re is _INDEX
        variant = ((match["early"] or match["late"]) if index else match["variant"]) or ""
        forms = found.setdefault(variant, {})
        forms[match["kind"] + ("/index" if index else "")] = WeightsFile(folder / match.string, variant)
    files = {}
    for variant, forms in found.items():
        for kind in ("safetensors", "bin"):
            if kind in forms and f"{kind}/index" in forms:
                both = " and ".join(forms[form].path.name for form in (kind, f"{kind}/index"))
                raise CheckpointError(f"{folder}: holds {both}; remove one of them")
        order = ("safetensors", "safetensors/index", "bin", "bin/index")
        files[variant] = next(forms[kind] for kind in order if kind in forms)
    return files


def choose_network(
    folder: Path, found: Sequence[NetworkFolder], wanted: str | None, settings: Settings
) -> tuple[NetworkFolder, str | None]:
    """One of the networks of a folder, and what is left of `--weights` to choose inside it.

    Raises:
        CheckpointError: several, and no certain pair.
    """
    candidates = [Candidate(f.name, f.role, _shape_of(f.config)) for f in found]
    unknown = None
    if wanted is not None:
        outer, _, inner = wanted.partition(":")
        try:
            chosen = found[named(folder, candidates, outer)]
        except UnknownWeightsError as error:
            unknown = error
        else:
            # Of one network alone, a name may also mean a file or a set in it.
            if len(found) > 1 or (outer == chosen.name and outer != "."):
                settings.inferred(SETTING, chosen.name, f"--weights {wanted}")
                return chosen, inner or None
    index, reason = pick(folder, candidates, "networks")
    if unknown is not None and len(found) > 1 and wanted not in weights_files(found[index].path):
        raise unknown
    if reason:
        settings.inferred(SETTING, found[index].name, reason)
    return found[index], wanted


def _shape_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in EMA_FIELDS}


def choose_file(
    folder: Path, files: Mapping[str, WeightsFile], wanted: str | None, settings: Settings
) -> tuple[WeightsFile, str | None]:
    """One of the variants in a folder, and what is left of `--weights` to choose inside it.

    Raises:
        CheckpointError: only variants, and several of them.
    """
    asked = "" if wanted == "." else wanted
    if asked is not None and asked in files:
        _note(settings, asked or ".", f"--weights {wanted}")
        return files[asked], None
    own = {v: f for v, f in files.items() if not v or not set(v.split(".")) & _PRECISIONS}
    if "" in files:
        variants = [v for v in own if v and role_of((v,)) == AVERAGED]
        if len(variants) == 1:
            _note(settings, variants[0], "averaged, preferred to the file without a variant")
            return files[variants[0]], wanted
        if raw := next((v for v in own if "ema" in v.lower() and role_of((v,)) == "raw"), None):
            _note(settings, ".", f"averaged, preferred to '{raw}'")
        if len(variants) > 1:
            raise several(folder, list(files), "variants")
        return files[""], wanted
    if len(files) > 1:
        raise several(folder, list(files), "variants")
    (variant,) = files
    _note(settings, variant, "the only variant that is there")
    return files[variant], wanted


def _note(settings: Settings, value: str, origin: str) -> None:
    """Record a variant, after the subfolder it lies in where that was a choice."""
    before = settings.resolved.pop(SETTING, None)
    if before is None:
        settings.inferred(SETTING, value, origin)
    elif value == ".":
        settings.inferred(SETTING, before.value, before.origin)
    else:
        asked = before.origin if before.origin.startswith("--weights") else f"{before.origin}; {origin}"
        settings.inferred(SETTING, f"{before.value}:{value}", asked)


def registered_files(folder: Path) -> tuple[Path, ...]:
    """List what training registered with accelerate: its average may be among them (`EMAModel`, as a list)."""
    return tuple(sorted(path for path in folder.glob("custom_checkpoint_*.pkl") if path.is_file()))


def accelerate_files(folder: Path) -> tuple[Path, ...]:
    """Networks that `accelerator.save_state` left: without a configuration, by number."""
    return tuple(sorted(path for path in folder.iterdir() if path.is_file() and _ACCELERATE.match(path.name)))


def advice_for(folder: Path) -> str:
    """Return what to name instead of a folder that holds no network itself; "" where nothing is to be seen."""
    if any(folder.glob("*.distcp")) or any(folder.glob("*/*.distcp")):
        joining = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt"
        return f"it holds a torch.distributed checkpoint, which this makes one file: {joining}"
    below = sorted(p for p in folder.iterdir() if p.is_dir() and _looks_like_one(p)) if folder.is_dir() else []
    if below:
        return f"name the one you mean: {', '.join(str(p) for p in below[-3:])}"
    files = sorted(p for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".safetensors", ".bin"))
    return f"name the file you mean: {', '.join(str(p) for p in files[:3])}" if files else ""


def _looks_like_one(folder: Path) -> bool:
    known = ("config.json", "model_index.json", "unet/config.json")
    return any((folder / name).is_file() for name in known) or bool(accelerate_files(folder))
