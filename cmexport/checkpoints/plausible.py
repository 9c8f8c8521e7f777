"""diffusers' networks from configurations that came from outside: sizes that nobody has are refused before building."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cmexport.checkpoints.diffusers_networks import fields_of, without_weights
from cmexport.errors import CheckpointError

# Fields that count modules, of which nobody has many; building 100,000 takes minutes.
_COUNTS = (
    *("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block"),
    *("num_encoder_blocks", "num_decoder_blocks"),
)


def library_network(name: str, path: Path, config: Mapping[str, Any]) -> nn.Module:
    """Build one of the library's networks without memory for its weights.

    Args:
        name: of its class.
        path: what the configuration was read from, for errors.
        config: its fields.

    Raises:
        CheckpointError: it is another class, a field is implausible, or the library can't build it.
        BackendError: diffusers is not installed.
    """
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
