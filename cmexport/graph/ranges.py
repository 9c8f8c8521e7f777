"""How large the values in a graph become, looked at in float32 before a target makes them half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import is_view, weight_elements
from cmexport.graph.tracing import to_module
from cmexport.model import HUGE_MODEL, LARGE_MODEL
from cmexport.signature import Signature

LARGEST = 65_504.0
"""Of float16."""
MARGIN = 4.0
"""How much farther than in the pictures that were looked at a value may go in others: two powers of two."""
SAFE = LARGEST / MARGIN
"""What is larger in the pictures that were looked at is mended."""

_PICTURES, _PICTURES_OF_LARGE_MODELS, _PICTURES_OF_HUGE_MODELS = 8, 2, 1
# A number beyond it is no activation: masks have -3.4e38 for minus infinity.
_MASK = 1e37


class _Peaks(fx.Interpreter):
    """Notes the largest magnitude of every float32 result."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node and look at what it gives."""
        result = super().run_node(n)
        if n.op != "get_attr" and isinstance(result, Tensor) and result.dtype == torch.float32 and result.numel():
            magnitudes = result.abs()
            peak = float(magnitudes.max())
            if not peak < _MASK:
                peak = float(magnitudes.masked_fill(~(magnitudes < _MASK), 0.0).max())
            self.found[n] = max(peak, self.found.get(n, 0.0))
        return result


def peaks(module: fx.GraphModule, signature: Signature) -> Mapping[fx.Node, float]:
    """Return the largest magnitude of every float32 result, over a few pictures from the border's own laws."""
    names = [n.name for n in module.graph.nodes if n.op == "placeholder"]
    weights = weight_elements(module)
    pictures = _PICTURES if weights <= LARGE_MODEL else _PICTURES_OF_LARGE_MODELS
    if weights > HUGE_MODEL:
        pictures = _PICTURES_OF_HUGE_MODELS
    seen = _Peaks(module)
    with torch.no_grad():
        for run in range(-(-pictures // signature.batch)):
            given = signature.examples(run)
            seen.run(*(given[name] for name in names), enable_io_processing=False)
    return seen.found


def overflowing(captured: CapturedGraph) -> tuple[str, ...]:
    """Name what must stay float32 in half precision: operations with results beyond `SAFE`, and those that read these.

    A reader in half precision would get infinity, however wide its input was computed.
    """
    module = to_module(captured.program)
    found: set[fx.Node] = set()
    waiting = [node for node, peak in peaks(module, captured.signature).items() if peak > SAFE]
    large = set(waiting)
    while waiting:
        node = waiting.pop()
        found.update((node, *node.users))
        waiting += [user for user in node.users if is_view(user) and user not in large]
        large.update(node.users)
    return tuple(node.name for node in module.graph.nodes if node.op == "call_function" and node in found)
