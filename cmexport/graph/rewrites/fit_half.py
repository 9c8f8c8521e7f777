"""fit_half: what would overflow half precision is scaled by a power of two, between linear layers and norms.

The decoder of Stable Diffusion XL is known for it: its residual stream peaks at 640,538 where float16 ends at 65,504,
and pictures come out black. Such a stream begins in linear layers, passes sums and ends in norms and linear layers, so
that a factor s = 2^-k can be moved through it:

* a linear layer that writes into it has its weight and bias multiplied by s;
* GroupNorm and LayerNorm give the same for s x and s^2 eps as for x and eps;
* a linear layer that reads it has its weight divided by s;
* anything else reads it times 1 / s, or writes into it times s.

A power of two rounds nothing: in float32 and float64 the graph computes what it did. What neither is nor begins in
something linear, a product of two activations say, can't be mended so; the note names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import fx

from cmexport.graph.fxtools import Editor, argument, aten, attribute, is_op, is_view
from cmexport.graph.ranges import SAFE, peaks
from cmexport.graph.rewrites.fold_scales import LINEAR_OPS, name_of, scale_weights, set_argument
from cmexport.graph.rewriting import Changes, Rewrite

_NORMS = (aten.group_norm.default, aten.layer_norm.default)
_EPS = 4
"""Where both take it, as an argument."""
_MOVING = (
    *(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default, aten.avg_pool2d.default),
    *(aten.cat.default, aten.neg.default, aten.dropout.default, aten.to.dtype, aten.expand.default),
)
LEFT = "too large and can't be scaled"
"""Begins what a note says of the rest."""
_ROOM = 64.0
"""What is scaled at all is scaled below this: norms square it, and in half precision the square of 256 is too large."""
_NAMED = 3
"""Streams that a note describes one by one."""


@dataclass
class _Stream:
    """Results that are scaled together, and where others come in: (the sum that takes it, what comes in)."""

    values: dict[fx.Node, None] = field(default_factory=dict)
    entries: dict[tuple[fx.Node, fx.Node], None] = field(default_factory=dict)

    def readers(self, editor: Editor) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Every result with each of those outside that read it."""
        for node in self.values:
            yield from ((node, user) for user in list(node.users) if node not in _scaled_by(editor, user))

    def unscaled(self, editor: Editor) -> list[tuple[fx.Node, fx.Node]]:
        """Return results and readers that need them as they were: neither norms nor linear layers."""
        return [(node, user) for node, user in self.readers(editor) if not _takes_scaled(editor, user, node)]


def _apply(editor: Editor) -> Changes:
    found = peaks(editor.module, editor.signature)
    large = sorted((node for node, peak in found.items() if peak > SAFE), key=lambda node: -found[node])
    done: set[fx.Node] = set()
    told: list[str] = []
    left: list[fx.Node] = []
    for node in large:
        if node in done:
            continue
        if not (_scaled_by(editor, node) or _is_linear(editor, node)):
            left.append(node)
            continue
        stream = _grow(editor, node)
        done.update(stream.values)
        if any(found.get(value, 0.0) > SAFE for value, _ in stream.unscaled(editor)):
            left.append(node)
            continue
        peak = max(found.get(value, 0.0) for value in stream.values)
        halvings = math.ceil(math.log2(peak / _ROOM))
        _scale(editor, stream, 2.0**-halvings)
        told.append(f"{_place(node)} peaks at {peak:,.0f} and is scaled by 2^-{halvings} up to the next norms")
    more = [f"{len(told) - _NAMED} more like it"] if len(told) > _NAMED else []
    if left:
        places = list(dict.fromkeys(map(_place, left)))
        more.append(f"{LEFT}: {', '.join(places[:_NAMED])}{', ...' if len(places) > _NAMED else ''}")
    return Changes(len(told), "; ".join([*told[:_NAMED], *more]))


def _scaled_by(editor: Editor, node: object) -> tuple[fx.Node, ...]:
    """Return the arguments that, times s, give the node's result times s; none where there are no such ones."""
    if not isinstance(node, fx.Node):
        return ()
    if is_view(node) or is_op(node, *_MOVING):
        first = node.args[0]
        data = [n for n in (first if isinstance(first, list | tuple) else (first,)) if isinstance(n, fx.Node)]
        cast = is_op(node, aten.to.dtype) and data[0].meta["val"].dtype != node.meta["val"].dtype
        return () if cast else tuple(data)
    if not is_op(node, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor):
        return ()
    left, right = node.args[:2]
    if is_op(node, aten.add.Tensor, aten.sub.Tensor):
        both = tuple(n for n in (left, right) if isinstance(n, fx.Node))
        return both if len(both) == 2 or right == 0 else ()
    varying = tuple(n for n in (left, right) if isinstance(n, fx.Node) and attribute(editor.module, n) is None)
    divides = is_op(node, aten.div.Tensor) and left not in varying
    return varying if len(varying) == 1 and not divides else ()


def _is_linear(editor: Editor, node: object) -> bool:
    """Whether a node is a linear layer with stored weights."""
    if not isinstance(node, fx.Node) or not is_op(node, *LINEAR_OPS):
        return False
    stored = [n for n in (node.args[1], argument(node, 2, "bias")) if n is not None]
    return all(attribute(editor.module, n) is not None for n in stored)


def _grow(editor: Editor, start: fx.Node) -> _Stream:
    stream, waiting = _Stream(), [start]
    while waiting:
        node = waiting.pop()
        if node in stream.values:
            continue
        stream.values[node] = None
        for given in _scaled_by(editor, node):
            if _scaled_by(editor, given) or _is_linear(editor, given):
                waiting.append(given)
            elif attribute(editor.module, given) is None:
                stream.entries[node, given] = None
        waiting += [user for user in node.users if node in _scaled_by(editor, user)]
    return stream


def _takes_scaled(editor: Editor, reader: fx.Node, node: fx.Node) -> bool:
    """Whether a reader can be made to give the same for its first argument times a number."""
    once = sum(n is node for n in reader.args) == 1 and reader.args[0] is node
    return once and (is_op(reader, *_NORMS) or _is_linear(editor, reader))


def _scale(editor: Editor, stream: _Stream, s: float) -> None:
    for node in stream.values:
        if _is_linear(editor, node):
            scale_weights(editor, node, s, scale_bias=True)
        for given in _scaled_by(editor, node):
            value = attribute(editor.module, given)
            if value is not None:
                scaled = editor.constant(node, value.double() * s, key=("scale", name_of(given), s))
                node.replace_input_with(given, scaled)
    for node, given in stream.entries:
        node.replace_input_with(given, editor.call(node, aten.mul.Tensor, given, s))
    for node, reader in list(stream.readers(editor)):
        if not _takes_scaled(editor, reader, node):
            reader.replace_input_with(node, editor.call(reader, aten.mul.Tensor, node, 1.0 / s))
        elif is_op(reader, *_NORMS):
            set_argument(reader, _EPS, "eps", _eps(reader) * s * s)
        else:
            scale_weights(editor, reader, 1.0 / s, scale_bias=False)


def _eps(norm: fx.Node) -> float:
    eps = argument(norm, _EPS, "eps", 1e-5)
    assert isinstance(eps, float)
    return eps


def _place(node: fx.Node) -> str:
    """Name where in the network a node is, by the path of its module."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else node.name


REWRITE = Rewrite(
    "fit_half", "what would overflow half precision, scaled by a power of two up to the next norm", _apply
)
