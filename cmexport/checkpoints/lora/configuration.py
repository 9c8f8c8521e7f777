"""What scales a LoRA where its file has no alphas: peft's configuration, in diffusers' metadata or a file beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmexport.errors import CheckpointError
from cmexport.files import read_json

_KEY = "lora_adapter_metadata"
"""Where diffusers' `save_lora_weights` keeps peft's configurations in a safetensors header, `unet.lora_alpha` and so on
(huggingface/diffusers `loaders/lora_base.py`)."""
_BESIDE = "adapter_config.json"


@dataclass(frozen=True)
class Alphas:
    """Configurations of peft by part; under "" one that holds for every part.

    Attributes:
        where: what they come from, for messages.
        configs: fields of peft's `LoraConfig`.
    """

    where: str = ""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, part: str, layer: str, rank: int) -> tuple[float, float]:
        """Return alpha of a layer and what it is divided by; without a word alpha is the rank.

        Raises:
            CheckpointError: alpha is no number.
        """
        config = self.configs.get(part, self.configs.get("", {}))
        alpha = config.get("lora_alpha", rank)
        for pattern, own in (config.get("alpha_pattern") or {}).items():
            # peft `utils/other.py`, get_pattern_key: the end of a name, or all of it behind ^.
            name = pattern.removeprefix("^").removeprefix("text_model.")
            if layer == name or (not pattern.startswith("^") and layer.endswith("." + name)):
                alpha = own
                break
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha == 0:
            raise CheckpointError(f"{self.where}: lora_alpha is {str(alpha)[:40]}")
        # Kalajdzievski 2023 (arXiv:2312.03732).
        return float(alpha), math.sqrt(rank) if config.get("use_rslora") else float(rank)


def alphas_in(path: Path, metadata: Mapping[str, str]) -> Alphas | None:
    """Read what diffusers wrote into a safetensors header; None where it says nothing.

    Raises:
        CheckpointError: it is damaged, or no plain LoRA's.
    """
    if _KEY not in metadata:
        return None
    where = f"{path}: {_KEY} in its header"
    try:
        content = dict(json.loads(metadata[_KEY]).items())
        parts = {key.partition(".")[0] for key in content}
        configs = {p: {k.partition(".")[2]: v for k, v in content.items() if k.startswith(p + ".")} for p in parts}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{where} is damaged") from error
    return Alphas(where, {part: _checked(where, config) for part, config in configs.items()})


def alphas_beside(path: Path) -> Alphas:
    """Read the `adapter_config.json` that belongs to peft's `adapter_model.*`; nothing where there is none.

    Raises:
        CheckpointError: it is damaged, or no plain LoRA's.
    """
    beside = path.with_name(_BESIDE)
    if not path.name.startswith("adapter_model.") or not beside.is_file():
        return Alphas()
    return Alphas(str(beside), {"": _checked(str(beside), read_json(beside))})


def _checked(where: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{where}: peft_type is {str(kind)[:40]}; only plain LoRA is supported")
    for name in ("use_dora", "lora_bias", "fan_in_fan_out"):
        if config.get(name):
            raise CheckpointError(f"{where}: {name} is not supported, only plain LoRA")
    patterns = config.get("alpha_pattern") or {}
    # peft takes regular expressions; only names are written by diffusers, and an expression may run for ever.
    if not isinstance(patterns, dict) or not all(re.fullmatch(r"\^?[\w.]+", pattern) for pattern in patterns):
        raise CheckpointError(f"{where}: alpha_pattern is no table of layers' names")
    return config
