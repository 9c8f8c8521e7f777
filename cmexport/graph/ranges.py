"""How large the values in a graph become, looked at in float32 before a target makes them half precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import argument, aten, is_view, weight_elements
from cmexport.graph.tracing import to_module
from cmexport.model import LARGE_MODEL
from cmexport.signature import Signature

LARGEST = 65_504.0
"""Of float16."""
MARGIN = 4.0
"""How much farther than in the pictures that were looked at a value may go in others: two powers of two."""
SAFE = LARGEST / MARGIN
"""What is larger in the pictures that were looked at is mended."""

_PICTURES, _PICTURES_OF_LARGE_MODELS = 8, 2
# A number beyond it is no activation: masks have -3.4e38 for minus infinity.
_MASK = 1e37


_QUERIES = 512
"""Whose logits are looked at together: 4,096 x 4,096 of them would be 67 MB, at 1024 x 1024 pixels 1.07 GB."""

Inside = Callable[[fx.Node, tuple[Any, ...]], float]
"""From an operation and its arguments to the largest magnitude of what it computes on the way to its result."""
_INSIDE: dict[Callable[..., object], Inside] = {}


def look_inside(operation: Callable[..., object], peak: Inside) -> None:
    """Have `peaks` look at what an operation computes on the way, too."""
    _INSIDE[operation] = peak


def largest_logit(q: Tensor, k: Tensor, scale: float) -> float:
    """Return the largest magnitude of q k^T times `scale`; an upper bound where that is `SAFE`.

    Args:
        q: (..., T, D).
        k: (..., S, D).
        scale: of the products.
    """
    # Cauchy and Schwarz: no product is larger than both lengths.
    bound = float((q.norm(dim=-1).amax(-1) * k.norm(dim=-1).amax(-1)).max()) * abs(scale)
    if not bound > SAFE:
        return bound
    across = k.transpose(-1, -2)
    return max(float((part @ across).abs().max()) for part in torch.split(q, _QUERIES, dim=-2)) * abs(scale)


def _logits(node: fx.Node, given: tuple[Any, ...]) -> float:
    q, k = given[:2]
    scale = argument(node, 6, "scale")
    return largest_logit(q, k, float(q.shape[-1]) ** -0.5 if scale is None else float(scale))  # type: ignore[arg-type]


look_inside(aten.scaled_dot_product_attention.default, _logits)


class _Peaks(fx.Interpreter):
    """Notes the largest magnitude of every float32 result, and of what is known to be computed on the way to it."""

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
            inside = _INSIDE.get(n.target) if n.op == "call_function" else None  # type: ignore[arg-type]
            if inside is not None:
                peak = max(peak, inside(n, self.fetch_args_kwargs_from_env(n)[0]))
            self.found[n] = max(peak, self.found.get(n, 0.0))
        return result


@dataclass
class ChannelRange:
    """How large the channels of one result become.

    Attributes:
        peak: (C,), the largest magnitudes.
        means: for each picture (C,), means over all but the channels.
        squares: for each picture (C,), means of the squares.
    """

    peak: Tensor
    means: list[Tensor]
    squares: list[Tensor]

    def variance(self, groups: int) -> Tensor:
        """Return the smallest variance of each of `groups` equal groups of channels, over the pictures: (groups,)."""
        found = []
        for mean, square in zip(self.means, self.squares, strict=True):
            grouped = mean.reshape(groups, -1).mean(1)
            found.append(square.reshape(groups, -1).mean(1) - grouped.square())
        return torch.stack(found).amin(0)


class _Channels(fx.Interpreter):
    """Notes the ranges of some results by channel."""

    def __init__(self, module: fx.GraphModule, dims: Mapping[fx.Node, int]) -> None:
        super().__init__(module)
        self._dims = dims
        self.found: dict[fx.Node, ChannelRange] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run the node and look at what it gives."""
        result = super().run_node(n)
        if n in self._dims:
            # Of each picture of a batch: a channel may be still in one of them.
            by_channel = result.movedim(self._dims[n], 1).flatten(2)
            peak = by_channel.abs().amax((0, 2))
            seen = self.found.setdefault(n, ChannelRange(peak, [], []))
            seen.peak = torch.maximum(seen.peak, peak)
            wide = by_channel.double()
            seen.means += wide.mean(2)
            seen.squares += wide.square().mean(2)
        return result


def peaks(module: fx.GraphModule, signature: Signature) -> Mapping[fx.Node, float]:
    """Return the largest magnitude of every float32 result, over a few pictures from the border's own laws."""
    seen = _Peaks(module)
    _draw(seen, module, signature)
    return seen.found


def channel_ranges(
    module: fx.GraphModule, signature: Signature, dims: Mapping[fx.Node, int]
) -> Mapping[fx.Node, ChannelRange]:
    """Return the ranges of some results, each with the dimension of its channels, over the pictures of `peaks`."""
    seen = _Channels(module, dims)
    _draw(seen, module, signature)
    return seen.found


def _draw(seen: fx.Interpreter, module: fx.GraphModule, signature: Signature) -> None:
    names = [n.name for n in module.graph.nodes if n.op == "placeholder"]
    pictures = _PICTURES if weight_elements(module) <= LARGE_MODEL else _PICTURES_OF_LARGE_MODELS
    with torch.no_grad():
        for run in range(-(-pictures // signature.batch)):
            given = signature.examples(run)
            seen.run(*(given[name] for name in names), enable_io_processing=False)


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
