"""Store equal matrices once.

The translator transposes a linear layer's weight for each node that uses it, so an unrolled two-step sampler would hold
every linear weight twice. `onnx_ir`'s own pass stops at 1024 numbers or refuses transposed arrays.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir


def share_matrices(model: ir.Model) -> int:
    """Let initializers of rank 2 with equal content become one; returns how many went."""
    initializers = model.graph.initializers
    kept: dict[tuple[object, ...], ir.Value] = {}
    removed = 0
    for name, value in list(initializers.items()):
        tensor = value.const_value
        if tensor is None or len(tensor.shape) != 2 or value.is_graph_input() or value.is_graph_output():
            continue
        content = hashlib.blake2b(np.ascontiguousarray(tensor.numpy()).data).digest()
        first = kept.setdefault((tensor.dtype, tuple(tensor.shape), content), value)
        if first is not value:
            value.replace_all_uses_with(first)
            del initializers[name]
            removed += 1
    return removed
