"""What `inspect` says of a TensorRT engine, with or without our manifest beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cmexport.cli import console
from cmexport.targets.tensorrt.header import EngineHeader, read_header
from cmexport.targets.tensorrt.layers import EngineLayers, layers_path, parse_layers, read_layers
from cmexport.targets.tensorrt.library import require_library
from cmexport.targets.tensorrt.runner import describe_loaded

# Operators named for each layer; the label lookup of the demo model alone is fused from 45.
_NAMED = 4


def engine_facts(engine: Path) -> dict[str, Any]:
    """Return the facts about an engine as plain data.

    Raises:
        CheckpointError: the engine or its description is damaged.
        BackendError: there is no description beside it, and the library or the GPU to ask is missing.
    """
    header = read_header(engine)
    found = _layers(engine)
    return {
        "path": str(engine),
        "bytes": engine.stat().st_size,
        "made_by": _maker(header),
        "compute_capabilities": None if header.sms is None else [_capability(sm) for sm in header.sms],
        "weights_bytes": found.weights_bytes,
        "activation_bytes": found.activation_bytes,
        "layers_by_precision": found.by_precision(),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "tactic": layer.tactic,
                "precision": layer.precision,
                "operators": list(layer.operators),
                "inputs": [t.model_dump(mode="json") for t in layer.inputs],
                "outputs": [t.model_dump(mode="json") for t in layer.outputs],
            }
            for layer in found.layers
        ],
    }


def show_engine(engine: Path) -> None:
    """Show the facts about an engine as tables; errors as `engine_facts`."""
    header = read_header(engine)
    found = _layers(engine)
    console.say(f"{engine}: {_maker(header)}, {engine.stat().st_size / 1e6:.2f} MB")
    if header.sms is not None:
        console.say(f"  for compute capability {', '.join(map(_capability, header.sms))}")
    for what, size in (("weights", found.weights_bytes), ("activations", found.activation_bytes)):
        console.say(f"  {what}: " + ("not known" if size is None else f"{size / 1e6:.2f} MB on the GPU"))
    by_precision = ", ".join(f"{name} {count}" for name, count in found.by_precision().items())
    console.say(f"  {len(found.layers)} layers: {by_precision}")
    kinds = Counter((layer.kind, layer.tactic.split("_0x")[0], layer.precision or "") for layer in found.layers)
    summary = Table("layers", "kind", "tactic", "precision")
    for (kind, tactic, precision), count in kinds.most_common():
        summary.add_row(str(count), Text(kind), Text(tactic), precision)
    console.say(summary)
    table = Table("layer", "precision", "fused from")
    for layer in found.layers:
        if layer.operators:
            rest = len(layer.operators) - _NAMED
            more = f" and {rest} more" if rest > 0 else ""
            table.add_row(Text(layer.name), layer.precision or "", Text(", ".join(layer.operators[:_NAMED]) + more))
    console.say(table)


def _layers(engine: Path) -> EngineLayers:
    """Return the description beside an engine, else what the library says when it loads it on this machine's GPU."""
    path = layers_path(engine)
    if path.is_file():
        return read_layers(path)
    library = require_library("rtx" if read_header(engine).rtx else "auto")
    return EngineLayers(
        engine=engine.name,
        library=library.title,
        bytes=engine.stat().st_size,
        weights_bytes=None,
        activation_bytes=None,
        layers=parse_layers(describe_loaded(library, engine)),
    )


def _maker(header: EngineHeader) -> str:
    name = "TensorRT for RTX" if header.rtx else "TensorRT"
    return name if header.version is None else f"{name} {header.version}"


def _capability(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"
