"""What `inspect` shows of LoRA files that were merged."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from cmexport.cli import console
from cmexport.model import Lora, LoraLayer

_SHOWN = 12


def lora_facts(lora: Lora) -> dict[str, Any]:
    """One file for `--json`: every layer, with the norm of what was added over that of its weight."""
    return {
        "file": str(lora.path),
        "sha256": lora.sha256,
        "bytes": lora.size_bytes,
        "scale": lora.scale,
        "dialect": lora.dialect,
        "layers": [
            {"part": x.part, "name": x.name, "rank": x.rank, "alpha": x.alpha, "ratio": x.ratio} for x in lora.layers
        ],
    }


def show_lora(lora: Lora) -> None:
    """One file as a table: the layers that it changes most."""
    ranks = sorted({layer.rank for layer in lora.layers})
    shown_ranks = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    console.say(
        f"LoRA {lora.path} at scale {lora.scale:g}: {lora.dialect}, {len(lora.layers)} layers of rank {shown_ranks}\n"
        f"sha256 {lora.sha256}"
    )
    table = Table("part", "layer", "rank", "alpha", "added / weight")
    most = sorted(lora.layers, key=_weight, reverse=True)
    for layer in most[:_SHOWN]:
        ratio = "weight was 0" if layer.ratio is None else f"{layer.ratio:.3g}"
        table.add_row(layer.part.replace("_", " "), Text(layer.name), str(layer.rank), f"{layer.alpha:g}", ratio)
    console.say(table)
    if len(most) > _SHOWN:
        console.say(f"and {len(most) - _SHOWN} layers more, the least changed by {_weight(most[-1]):.3g}; all: --json")


def _weight(layer: LoraLayer) -> float:
    """What is added to a weight of 0 comes first."""
    return float("inf") if layer.ratio is None else layer.ratio
