"""fit_half: what would overflow half precision is scaled by powers of two, between linear layers and norms.

The decoder of Stable Diffusion XL is known for it: its residual stream peaks at 640,538 where float16 ends at 65,504,
and pictures come out black. Such a stream begins in linear layers, passes sums and ends in norms and linear layers, so
that a factor s = 2^-k can be moved through it:

* a linear layer that writes into it has its weight and bias multiplied by s;
* GroupNorm and LayerNorm give the same for s x and s^2 eps as for x and eps;
* a linear layer that reads it has its weight divided by s;
* anything else reads it times 1 / s, or writes into it times s.

A power of two rounds nothing: in float32 and float64 the graph computes what it did. What neither is nor begins in
something linear, a product of two activations say, can't be mended so; the note names it.

Where few channels peak and the others don't, the groups of channels that norms put together get factors of their own:
one for all would take ordinary channels, and the weights that make them, below half precision's normal numbers (17 dB
for two of 64 channels at 10^6). A norm still has one eps, that of its least scaled group; only where the others' scaled
variance makes that a relative difference below `_EPS_SHARE` is it done.

Attention's logits are looked at, too. A key's bias adds the same to all logits of a query, which softmax takes away
again; where logits are too large it is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from cmexport.graph.capture import RewriteReport
from cmexport.graph.fxtools import (
    Editor,
    argument,
    aten,
    attribute,
    channels_in,
    is_op,
    is_view,
    shape_of,
    uses_through_views,
)
from cmexport.graph.ranges import SAFE, ChannelRange, channel_ranges, peaks
from cmexport.graph.rewrites.fold_scales import LINEAR_OPS, name_of, set_argument
from cmexport.graph.rewriting import Changes, Rewrite

_GROUP_NORM, _LAYER_NORM = aten.group_norm.default, aten.layer_norm.default
_NORMS = (_GROUP_NORM, _LAYER_NORM)
_SDPA = aten.scaled_dot_product_attention.default
_EPS = 4
"""Where both norms take it, as an argument."""
_EPS_SHARE = 1e-7
"""What one eps for differently scaled groups may change, relative to a norm's result: a float32 rounding."""
_SAME_CHANNELS = (
    *(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default, aten.avg_pool2d.default),
    *(aten.neg.default, aten.dropout.default, aten.to.dtype, aten.expand.default),
)
_MOVING = (*_SAME_CHANNELS, aten.cat.default)
LEFT = "too large and can't be scaled"
"""Begins what a note says of the rest."""
_ROOM = 64.0
"""What is scaled at all is scaled below this: norms square it, and in half precision the square of 256 is too large."""
_SMALL_WEIGHTS, _LARGE_WEIGHTS = 2.0**-10, 2.0**12
"""Root mean square and largest of weights as half precision should have them; its normal numbers begin at 2^-14."""
_APART = 2.0**5
"""How far apart the factors of groups are at least where each has its own: a group in its neighbours' shadow still has
half precision's normal numbers with 2^-5 less."""
_NAMED = 3
"""Streams that a note describes one by one."""


@dataclass
class _Stream:
    """Results that are scaled together, and where others come in: (the sum that takes it, what comes in)."""

    start: fx.Node
    values: dict[fx.Node, None] = field(default_factory=dict)
    entries: dict[tuple[fx.Node, fx.Node], None] = field(default_factory=dict)

    def readers(self, editor: Editor) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Every result with each of those outside that read it."""
        for node in self.values:
            yield from ((node, user) for user in list(node.users) if node not in _scaled_by(editor, user))

    def unscaled(self, editor: Editor) -> list[tuple[fx.Node, fx.Node]]:
        """Return results and readers that need them as they were: neither norms nor linear layers."""
        return [(node, user) for node, user in self.readers(editor) if not _takes_scaled(editor, user, node)]


@dataclass(frozen=True)
class _Factors:
    """What a stream is multiplied by.

    Attributes:
        each: powers of two, float64: (C,), or (1,) for all channels together.
        dims: the dimension of the channels of every result; empty for one factor.
    """

    each: Tensor
    dims: Mapping[fx.Node, int]

    @property
    def uniform(self) -> bool:
        """Whether there is one factor."""
        return len(self.each) == 1

    def along(self, node: fx.Node) -> Tensor:
        """Shape them to multiply a result."""
        return self.each.reshape(() if self.uniform else (-1, *([1] * (len(shape_of(node)) - self.dims[node] - 1))))


def leaves_large(reports: Iterable[RewriteReport]) -> bool:
    """Whether something stayed too large for half precision, as this rewrite's note says."""
    return any(LEFT in report.note for report in reports)


def _apply(editor: Editor) -> Changes:
    found = dict(peaks(editor.module, editor.signature))
    if not any(peak > SAFE for peak in found.values()):
        return Changes(0)
    dropped = [n for n in found if found[n] > SAFE and is_op(n, _SDPA) and _drop_key_bias(editor, n)]
    if dropped:
        found = dict(peaks(editor.module, editor.signature))
    large = sorted((node for node, peak in found.items() if peak > SAFE), key=lambda node: -found[node])
    alike: dict[str | None, list[fx.Node]] = {}
    for node in editor.graph.nodes:
        if _is_linear(editor, node):
            alike.setdefault(name_of(node.args[1]), []).append(node)
    done: set[fx.Node] = set()
    streams: list[_Stream] = []
    left: list[fx.Node] = []
    for node in large:
        if node in done:
            continue
        if not (_scaled_by(editor, node) or _is_linear(editor, node)):
            left.append(node)
            continue
        stream = _grow(editor, node, alike)
        done.update(stream.values)
        if any(found.get(value, 0.0) > SAFE for value, _ in stream.unscaled(editor)):
            left.append(node)
        else:
            streams.append(stream)
    factors = _choose(editor, streams, found)
    told = [_told(stream, found, each) for stream, each in zip(streams, factors, strict=True)]
    for stream, each in zip(streams, factors, strict=True):
        _scale(editor, stream, each)
    _balance(editor, streams, factors, found)
    more = [f"{len(told) - _NAMED} more like it"] if len(told) > _NAMED else []
    if dropped:
        more.append(f"logits of {len(dropped)} attentions were too large with their keys' bias, which changes nothing")
    if left:
        places = list(dict.fromkeys(map(_place, left)))
        more.append(f"{LEFT}: {', '.join(places[:_NAMED])}{', ...' if len(places) > _NAMED else ''}")
    return Changes(len(told) + len(dropped), "; ".join([*told[:_NAMED], *more]))


def _told(stream: _Stream, found: Mapping[fx.Node, float], factors: _Factors) -> str:
    by = f"2^{round(math.log2(float(factors.each.min())))}"
    some = "" if factors.uniform else f" in {int((factors.each < 1).sum())} of its {len(factors.each)} channels"
    peak = found[stream.start]
    return f"{_place(stream.start)} peaks at {peak:,.0f} and is scaled by {by}{some} up to the next norms"


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


def _grow(editor: Editor, start: fx.Node, alike: Mapping[str | None, list[fx.Node]]) -> _Stream:
    stream, waiting = _Stream(start), [start]
    while waiting:
        node = waiting.pop()
        if node in stream.values:
            continue
        stream.values[node] = None
        if _is_linear(editor, node):
            # Other steps' copies, too: with another factor they would need weights of their own.
            waiting += [n for n in alike[name_of(node.args[1])] if n is not node]
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


def _choose(editor: Editor, streams: list[_Stream], found: Mapping[fx.Node, float]) -> list[_Factors]:
    """Choose each stream's factors: one, or one for each group of channels where that is possible and differs."""
    dims = [_channel_dims(editor, stream) for stream in streams]
    wanted = {node: dim for known in dims for node, dim in known.items()}
    ranges = channel_ranges(editor.module, editor.signature, wanted) if wanted else {}
    chosen = []
    for stream, known in zip(streams, dims, strict=True):
        grouped = _by_group(editor, stream, known, ranges)
        if grouped is None:
            peak = max(found.get(value, 0.0) for value in stream.values)
            grouped = _Factors(_power(torch.tensor([peak], dtype=torch.float64)), {})
        chosen.append(grouped)
    return chosen


def _power(peaks_found: Tensor) -> Tensor:
    """Return the largest powers of two, at most 1, that bring peaks below `_ROOM`."""
    halvings = torch.log2(peaks_found.double().clamp_min(_ROOM) / _ROOM).ceil()
    return torch.exp2(-halvings)


def _by_group(
    editor: Editor, stream: _Stream, dims: Mapping[fx.Node, int], ranges: Mapping[fx.Node, ChannelRange]
) -> _Factors | None:
    if not dims:
        return None
    if not all(_takes_by_channel(user, node, dims[node]) for node, user in stream.readers(editor)):
        return None
    norms = [(node, user) for node, user in stream.readers(editor) if is_op(user, _GROUP_NORM)]
    peak = torch.stack([ranges[node].peak for node in stream.values]).amax(0)
    channels = len(peak)
    together = math.lcm(*(channels // _groups(user) for _, user in norms))
    if channels % together:
        return None
    each = _power(peak.reshape(-1, together).amax(1)).repeat_interleave(together)
    largest = float(each.max())
    if largest < _APART * float(each.min()):
        return None
    for node, norm in norms:
        groups = _groups(norm)
        mine = each.reshape(groups, -1)[:, 0]
        scaled = ranges[node].variance(groups) * mine.square()
        differing = mine < largest
        share = _eps(norm) * largest**2 / scaled.clamp_min(1e-300) / 2
        if bool((share[differing] > _EPS_SHARE).any()):
            return None
    return _Factors(each, dims)


def _takes_by_channel(reader: fx.Node, node: fx.Node, dim: int) -> bool:
    """Whether a reader could do with another factor for each channel; what is no norm or linear layer always can."""
    if is_op(reader, aten.conv2d.default) and reader.args[0] is node:
        return dim == 1 and argument(reader, 6, "groups", 1) == 1
    if is_op(reader, aten.linear.default) and reader.args[0] is node:
        return dim == len(shape_of(node)) - 1
    return dim == 1 if is_op(reader, _GROUP_NORM) else not is_op(reader, _LAYER_NORM)


def _groups(norm: fx.Node) -> int:
    groups = norm.args[1]
    assert isinstance(groups, int)
    return groups


def _channel_dims(editor: Editor, stream: _Stream) -> dict[fx.Node, int]:
    """Find which dimension of every result holds the channels that linear layers write; nothing where that is unclear.

    Everything in a stream has the same channels in the same order, unless they are joined or picked apart.
    """
    writers = [node for node in stream.values if _is_linear(editor, node)]
    dims = {node: 1 if is_op(node, aten.conv2d.default) else len(shape_of(node)) - 1 for node in writers}
    channels = {shape_of(node)[dims[node]] for node in writers}
    grouped = any(is_op(n, aten.conv2d.default) and argument(n, 6, "groups", 1) != 1 for n in writers)
    if len(channels) != 1 or grouped:
        return {}
    (count,) = channels
    waiting = list(writers)
    while waiting:
        node = waiting.pop()
        near = [(given, _before(given, node, dims[node], count)) for given in _scaled_by(editor, node)]
        users = [user for user in node.users if node in _scaled_by(editor, user)]
        near += [(user, _after(node, user, dims[node], count)) for user in users]
        for other, dim in near:
            if other not in stream.values:
                continue
            if dim is None or dims.get(other, dim) != dim:
                return {}
            if other not in dims:
                dims[other] = dim
                waiting.append(other)
    return dims if len(dims) == len(stream.values) else {}


def _after(given: fx.Node, result: fx.Node, dim: int, count: int) -> int | None:
    """Find where channels are in a result, by where they are in what it is made from; None where they are mixed."""
    if is_op(result, aten.cat.default):
        return None
    if not is_view(result):
        moved = dim + len(shape_of(result)) - len(shape_of(given))
        return moved if shape_of(result)[moved] == count else None
    assert callable(result.target)
    index = _numbered(shape_of(given), dim, count)
    moved_index = result.target(index, *result.args[1:], **result.kwargs)
    if not isinstance(moved_index, Tensor):
        return None
    for place, size in enumerate(moved_index.shape):
        if size == count and bool((moved_index == _numbered(moved_index.shape, place, count)).all()):
            return place
    return None


def _before(given: fx.Node, result: fx.Node, dim: int, count: int) -> int | None:
    """Find where channels are in what a result is made from; see `_after`."""
    places = [place for place, size in enumerate(shape_of(given)) if size == count]
    return next((place for place in places if _after(given, result, place, count) == dim), None)


def _numbered(shape: Iterable[int], dim: int, count: int) -> Tensor:
    """Every element's channel."""
    sizes = tuple(shape)
    return torch.arange(count).reshape(-1, *([1] * (len(sizes) - dim - 1))).expand(sizes)


def _scale(editor: Editor, stream: _Stream, factors: _Factors) -> None:
    readers = list(stream.readers(editor))
    for node in stream.values:
        if _is_linear(editor, node):
            _multiply(editor, node, factors.each, by_input=False)
        for given in _scaled_by(editor, node):
            value = attribute(editor.module, given)
            if value is not None:
                s = factors.along(node)
                scaled = editor.constant(node, value.double() * s, key=("fit", name_of(given), _key(s)))
                node.replace_input_with(given, scaled)
    for node, given in stream.entries:
        node.replace_input_with(given, _times(editor, node, given, factors.along(node)))
    for node, reader in readers:
        if not _takes_scaled(editor, reader, node):
            reader.replace_input_with(node, _times(editor, reader, node, 1.0 / factors.along(node)))
        elif is_op(reader, *_NORMS):
            set_argument(reader, _EPS, "eps", _eps(reader) * float(factors.each.max()) ** 2)
        else:
            _multiply(editor, reader, 1.0 / factors.each, by_input=True)


def _times(editor: Editor, before: fx.Node, node: fx.Node, s: Tensor) -> fx.Node:
    factor = float(s) if s.dim() == 0 else editor.constant(before, s, key=("fit", _key(s)))
    return editor.call(before, aten.mul.Tensor, node, factor)


def _multiply(editor: Editor, layer: fx.Node, s: Tensor, *, by_input: bool) -> None:
    """Multiply a layer's weight by a factor for each of its inputs, or it and the bias by one for each output."""
    weight, bias = layer.args[1], argument(layer, 2, "bias")
    weight_value, bias_value = attribute(editor.module, weight), attribute(editor.module, bias)
    assert weight_value is not None
    rest = [1] * (weight_value.dim() - 2)
    column = s.reshape(1, -1, *rest) if by_input else s.reshape(-1, 1, *rest)
    key = ("fit", by_input, _key(s))
    scaled = editor.constant(layer, lambda: weight_value.double() * column, key=(*key, name_of(weight)))
    set_argument(layer, 1, "weight", scaled)
    if not by_input and bias_value is not None:
        value = editor.constant(layer, lambda: bias_value.double() * s, key=(*key, name_of(bias)))
        set_argument(layer, 2, "bias", value)


def _key(s: Tensor) -> tuple[float, ...]:
    return tuple(s.flatten().tolist())


def _balance(editor: Editor, streams: list[_Stream], factors: list[_Factors], found: Mapping[fx.Node, float]) -> None:
    """Move powers of two out of the weights of scaled layers where these would suffer.

    Weights below 2^-14 become zero in half precision: what makes 600,000 of large inputs with ordinary weights, or adds
    little to a stream that peaks later, gives larger results that are scaled afterwards.
    """
    peak = dict(found)
    layers: dict[str | None, dict[fx.Node, None]] = {}
    for stream, each in zip(streams, factors, strict=True):
        largest = float(each.each.max())
        peak.update({node: min(_ROOM, found.get(node, 0.0) * largest) for node in stream.values})
        for node in (*stream.values, *(user for _, user in stream.readers(editor))):
            if _is_linear(editor, node):
                layers.setdefault(name_of(node.args[1]), {})[node] = None
    for alike in layers.values():
        weight = attribute(editor.module, next(iter(alike)).args[1])
        assert weight is not None
        most, typical = float(weight.abs().max()), float(weight.double().square().mean().sqrt())
        if most > _LARGE_WEIGHTS:
            given = max(peak.get(source, 0.0) for node in alike for source in node.all_input_nodes[:1])
            doublings = min(math.ceil(math.log2(most / _LARGE_WEIGHTS)), _room(given))
            for node in alike if doublings > 0 else ():
                source, factor = node.all_input_nodes[0], torch.tensor(2.0**doublings, dtype=torch.float64)
                node.replace_input_with(source, _times(editor, node, source, factor))
                _multiply(editor, node, (1.0 / factor).reshape(1), by_input=True)
        elif 0 < typical < _SMALL_WEIGHTS:
            doublings = min(math.ceil(math.log2(_SMALL_WEIGHTS / typical)), min(_room(peak[node]) for node in alike))
            for node in alike if doublings > 0 else ():
                _multiply(editor, node, torch.tensor([2.0**doublings], dtype=torch.float64), by_input=False)
                users = list(node.users)
                smaller = editor.call(node.next, aten.mul.Tensor, node, 2.0**-doublings)
                for user in users:
                    user.replace_input_with(node, smaller)


def _room(peak: float) -> int:
    """How often a result may be doubled."""
    return math.floor(math.log2(SAFE / peak)) if peak > 0 else 0


def _drop_key_bias(editor: Editor, attention: fx.Node) -> bool:
    """Drop the bias of what makes an attention's keys; False, and nothing changed, where others read it, too."""
    key = attention.args[1]
    assert isinstance(key, fx.Node)
    producer = key
    while is_view(producer):
        source = producer.args[0]
        assert isinstance(source, fx.Node)
        producer = source
    bias = attribute(editor.module, argument(producer, 2, "bias")) if _is_linear(editor, producer) else None
    if bias is None or not bool(bias.any()):
        return False
    mine, others = torch.zeros(len(bias), dtype=torch.bool), torch.zeros(len(bias), dtype=torch.bool)
    dim = 1 if is_op(producer, aten.conv2d.default) else len(shape_of(producer)) - 1
    for use in uses_through_views(producer, dim):
        is_key = use.user is attention and use.value is key and sum(n is key for n in attention.args) == 1
        (mine if is_key else others).logical_or_(channels_in(use.indices, len(bias)))
    if not bool(mine.any()) or bool((mine & others).any()):
        return False
    name = name_of(argument(producer, 2, "bias"))
    kept = editor.constant(producer, bias.double() * ~mine, key=("key bias", name, tuple(mine.tolist())))
    set_argument(producer, 2, "bias", kept)
    return True


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
