"""Size, operators and stored numbers of an ONNX file, read without its weights."""

from __future__ import annotations

import math
from pathlib import Path

import onnx

from benchmarks.harness.records import FileRecord


def file_facts(path: Path) -> FileRecord:
    """Facts of a model file; external weights beside it count as part of it.

    Operators are those of the main graph and of functions as often as they are called; constants that only spell out
    a weight (`Constant` nodes) are counted as operators too, for that is what a runtime has to read.
    """
    model = onnx.load(path, load_external_data=False)
    external = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    size = path.stat().st_size + sum((path.parent / name).stat().st_size for name in external)
    bodies = {(f.domain, f.name): f for f in model.functions}

    def count(nodes: object) -> int:
        total = 0
        for node in nodes:  # type: ignore[attr-defined]
            body = bodies.get((node.domain, node.op_type))
            total += count(body.node) if body is not None else 1
        return total

    parameters = sum(math.prod(t.dims) for t in model.graph.initializer)
    return FileRecord(bytes=size, nodes=count(model.graph.node), parameters=parameters)
