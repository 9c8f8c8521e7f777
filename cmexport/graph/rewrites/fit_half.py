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
variance makes that a relative difference below `_EPS_SHARE` is it done. Where a network concatenates results of such
different sizes (a UNet's early and late ones: 3 beside 10^9), each part comes in times a factor of its own, and streams
end there.

An activation function isn't linear: one that peaks computes in float32, and where only norms and linear layers read
what it gives, a stream begins with that times s.

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
_LEAST_PEAK = 2.0**-6
"""Peak of a scaled group, whose values then have half precision's normal numbers down to 2^-8 of it."""
_APART = 2.0**5
"""How far apart the factors of groups are at least where each has its own: a group in its neighbours' shadow still has
half precision's normal numbers with 2^-5 less."""
_NAMED = 3
"""Streams that a note describes one by one."""
_ACTIVATIONS = (aten.silu.default, aten.gelu.default, aten.relu.default)
_JOIN, _BEHIND = "fit_half.join", "fit_half.behind"
"""Mark, in a node's meta, products made here: of a part on its way into a concatenation, and of what an activation
gives."""


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
    joins = _level_joins(editor, found)
    for node in [n for n in found if found[n] > SAFE and is_op(n, *_ACTIVATIONS)]:
        # Where the network itself scales it down again, half precision would lose it: 2^-9 2^-10 is such a case.
        if all(_takes_scaled(editor, user, node) for user in node.users):
            _put_behind(editor, node, found)
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
        stream = _grow(editor, node, alike, found)
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
    if joins:
        more.append(f"parts of {joins} concatenations are joined each at its own scale")
    if dropped:
        more.append(f"logits of {len(dropped)} attentions were too large with their keys' bias, which changes nothing")
    if left:
        places = list(dict.fromkeys(map(_place, left)))
        more.append(f"{LEFT}: {', '.join(places[:_NAMED])}{', ...' if len(places) > _NAMED else ''}")
    for node in [n for n in editor.graph.nodes if n.meta.keys() & {_BEHIND, _JOIN} and n.args[1] == 1.0]:
        node.replace_all_uses_with(node.args[0])
    return Changes(len(told) + len(dropped) + joins, "; ".join([*told[:_NAMED], *more]))


def _told(stream: _Stream, found: Mapping[fx.Node, float], factors: _Factors) -> str:
    by = f"2^{round(math.log2(float(factors.each.min())))}"
    some = "" if factors.uniform else f" in {int((factors.each < 1).sum())} of its {len(factors.each)} channels"
    peak = found[stream.start]
    return f"{_place(stream.start)} peaks at {peak:,.0f} and is scaled by {by}{some} up to the next norms"


def _scaled_by(editor: Editor, node: object) -> tuple[fx.Node, ...]:
    """Return the arguments that, times s, give the node's result times s; none where there are no such ones."""
    if not isinstance(node, fx.Node) or _JOIN in node.meta:
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


def _grow(
    editor: Editor, start: fx.Node, alike: Mapping[str | None, list[fx.Node]], found: Mapping[fx.Node, float]
) -> _Stream:
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
            # A small result that others read stays what it is: a norm would find nothing left of it.
            small = len(given.users) > 1 and found.get(given, 0.0) <= _ROOM and given is not start
            if (_scaled_by(editor, given) or _is_linear(editor, given)) and not small:
                waiting.append(given)
            elif attribute(editor.module, given) is None:
                stream.entries[node, given] = None
        waiting += [user for user in node.users if node in _scaled_by(editor, user)]
    stream.entries = {entry: None for entry in stream.entries if entry[1] not in stream.values}
    return stream


def _takes_scaled(editor: Editor, reader: fx.Node, node: fx.Node) -> bool:
    """Whether a reader can be made to give the same for its first argument times a number."""
    once = sum(n is node for n in reader.args) == 1 and reader.args[0] is node
    return once and (_JOIN in reader.meta or is_op(reader, *_NORMS) or _is_linear(editor, reader))


def _level_joins(editor: Editor, found: dict[fx.Node, float]) -> int:
    """Bring large parts into concatenations each at its own scale; return in how many.

    Networks that join early results to late ones may have 3 beside 10^9, and norms behind that look at few channels at
    a time: one factor for all, and for all streams that meet so, would leave nothing of the smaller ones. Norms don't
    mind factors of whole groups, and linear layers take them back.
    """
    large = [n for n, peak in found.items() if peak > SAFE and is_op(n, aten.cat.default) and _is_joinable(editor, n)]
    ranges = channel_ranges(editor.module, editor.signature, dict.fromkeys(large, 1)) if large else {}
    for cat in large:
        norms = [user for user in cat.users if is_op(user, _GROUP_NORM)]
        peak = ranges[cat].peak
        each = _by_channel(peak, [(ranges[cat], norm) for norm in norms])
        _level(editor, cat, _power(peak.amax().expand_as(peak)) if each is None else each, peak, found)
    return len(large)


def _is_joinable(editor: Editor, cat: fx.Node) -> bool:
    """Whether channels are joined, and all readers do with a factor for each group of them."""
    parts, dim = cat.args[0], argument(cat, 1, "dim", 0)
    assert isinstance(parts, list | tuple)
    if dim not in (1, 1 - len(shape_of(cat))) or not all(isinstance(p, fx.Node) for p in parts):
        return False
    sizes = [shape_of(part)[1] for part in parts]  # type: ignore[arg-type]
    for user in cat.users:
        if not _takes_scaled(editor, user, cat) or not _takes_by_channel(user, cat, 1):
            return False
        if is_op(user, _GROUP_NORM) and any(size % (sum(sizes) // _groups(user)) for size in sizes):
            return False
    return True


def _level(editor: Editor, cat: fx.Node, each: Tensor, peak: Tensor, found: dict[fx.Node, float]) -> None:
    parts = cat.args[0]
    assert isinstance(parts, list | tuple)
    sizes = [shape_of(part)[1] for part in parts]  # type: ignore[arg-type]
    levelled = []
    for part, factors in zip(parts, torch.split(each, sizes), strict=True):
        product = _times(editor, cat, part, _along(factors, shape_of(cat)))
        product.meta[_JOIN] = True
        levelled.append(product)
    for product, peaks_of_part in zip(levelled, torch.split(peak * each, sizes), strict=True):
        found[product] = float(peaks_of_part.max())
    cat.args = (levelled, *cat.args[1:])
    found[cat] = max(found[product] for product in levelled)
    for user in list(cat.users):
        if is_op(user, _GROUP_NORM):
            set_argument(user, _EPS, "eps", _eps(user) * float(each.max()) ** 2)
        else:
            _multiply(editor, user, 1.0 / each, by_input=True)


def _along(factors: Tensor, shape: Iterable[int]) -> Tensor:
    """Shape factors of channels to multiply (N, C, ...): (C, 1, ...), or () where all are one."""
    if bool((factors == factors[0]).all()):
        return factors[0]
    return factors.reshape(-1, *([1] * (len(tuple(shape)) - 2)))


def _put_behind(editor: Editor, activation: fx.Node, found: dict[fx.Node, float]) -> None:
    """Begin a stream behind an activation, which can't be scaled itself but computes in float32."""
    users = list(activation.users)
    product = editor.call(activation.next, aten.mul.Tensor, activation, 1.0)
    product.meta[_BEHIND] = True
    found[product] = found[activation]
    for user in users:
        user.replace_input_with(activation, product)


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
    each = _by_channel(peak, [(ranges[node], norm) for node, norm in norms])
    return None if each is None else _Factors(each, dims)


def _by_channel(peak: Tensor, norms: list[tuple[ChannelRange, fx.Node]]) -> Tensor | None:
    """Choose a factor for each channel, equal within the groups of the norms behind; None where one for all does."""
    channels = len(peak)
    together = math.lcm(*(channels // _groups(norm) for _, norm in norms))
    if channels % together:
        return None
    highest = peak.reshape(-1, together).amax(1).repeat_interleave(together)
    each = wanted = _power(highest)
    # Where the one eps would be too much for the others, the least scaled group is scaled, too, as far as it bears it.
    while float(each.max()) >= _APART * float(each.min()):
        if all(_bears_one_eps(each, seen, norm) for seen, norm in norms):
            return each
        each = each.clamp(max=float(each.max()) / 2)
        if bool(((each < wanted) & (highest * each < _LEAST_PEAK)).any()):
            return None
    return None


def _bears_one_eps(each: Tensor, seen: ChannelRange, norm: fx.Node) -> bool:
    """Whether the least scaled group's eps is next to nothing beside the others' variances."""
    groups, largest = _groups(norm), float(each.max())
    mine = each.reshape(groups, -1)[:, 0]
    scaled = seen.variance(groups) * mine.square()
    share = _eps(norm) * largest**2 / scaled.clamp_min(1e-300) / 2
    return not bool((share[mine < largest] > _EPS_SHARE).any())


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
        if _BEHIND in node.meta:
            _set_factor(editor, node, factors.along(node))
        else:
            node.replace_input_with(given, _times(editor, node, given, factors.along(node)))
    for node, reader in readers:
        if not _takes_scaled(editor, reader, node):
            reader.replace_input_with(node, _times(editor, reader, node, 1.0 / factors.along(node)))
        elif _JOIN in reader.meta:
            _set_factor(editor, reader, _factor(editor, reader) / factors.along(node))
        elif is_op(reader, *_NORMS):
            set_argument(reader, _EPS, "eps", _eps(reader) * float(factors.each.max()) ** 2)
        else:
            _multiply(editor, reader, 1.0 / factors.each, by_input=True)


def _times(editor: Editor, before: fx.Node, node: fx.Node, s: Tensor) -> fx.Node:
    factor = float(s) if s.dim() == 0 else editor.constant(before, s, key=("fit", tuple(s.shape), _key(s)))
    return editor.call(before, aten.mul.Tensor, node, factor)


def _factor(editor: Editor, product: fx.Node) -> Tensor:
    """Return what a product made here multiplies by, float64."""
    given = product.args[1]
    stored = attribute(editor.module, given) if isinstance(given, fx.Node) else torch.tensor(given)
    assert stored is not None
    return stored.double()


def _set_factor(editor: Editor, product: fx.Node, s: Tensor) -> None:
    factor = float(s) if s.dim() == 0 else editor.constant(product, s, key=("fit", tuple(s.shape), _key(s)))
    product.args = (product.args[0], factor)


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
