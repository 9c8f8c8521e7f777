"""Constants that training code saved in the same file as the weights: `{"model": ..., "args": {"num_heads": 4}}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmexport.checkpoints.settings import parse_overrides
from cmexport.checkpoints.sidecar import as_text
from cmexport.errors import UsageError
from cmexport.model import SettingValue

# Where training code keeps its options, and where in them those of the network lie.
_ENTRIES = ("args", "config", "cfg", "hparams", "hyper_parameters", "model_args", "model_config", "options", "flags")
_PARTS = ("model", "unet", "network", "net")
# What weights can't tell. Widths and depths are read off the weights; schedules of training mean nothing here.
_TAKEN = (
    "image_size",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_new_attention_order",
    "training_mode",
    "sigma_data",
    "sigma_min",
    "sigma_max",
    "rho",
)


def embedded_settings(content: object) -> dict[str, SettingValue]:
    """Return what a checkpoint's own options say of the fields that weights leave open; the first mention counts.

    Values of other kinds than `--set` would take (a list of heads, say) are another program's field of that name.
    """
    found: dict[str, SettingValue] = {}
    for table in _tables(content):
        for name in _TAKEN:
            value: Any = table.get(name)
            if name in found or not isinstance(value, bool | int | float | str | list | tuple):
                continue
            try:
                found |= parse_overrides({name: as_text(value)}, "")
            except UsageError:
                continue
    return found


def _tables(content: object) -> list[Mapping[Any, Any]]:
    if not isinstance(content, Mapping):
        return []
    options = [content[name] for name in _ENTRIES if isinstance(content.get(name), Mapping)]
    return [*options, *(o[part] for o in options for part in _PARTS if isinstance(o.get(part), Mapping))]
