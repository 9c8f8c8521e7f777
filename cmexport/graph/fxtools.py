"""Small questions that every rewrite asks of an fx graph: what depends on what, which weight is this, replace it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from cmexport.signature import Output, Signature

aten = torch.ops.aten

_NO_BORDER = Signature((), Output("", ()))


def dependence(graph: fx.Graph) -> dict[fx.Node, frozenset[str]]:
    """Find for every node the names of the inputs that it can change with; none for what is fixed."""
    found: dict[fx.Node, frozenset[str]] = {}
    for node in graph.nodes:
        own = {node.name} if node.op == "placeholder" else ()
        found[node] = frozenset(own).union(*(found[n] for n in node.all_input_nodes))
    return found


def is_op(node: object, *targets: Callable[..., object]) -> bool:
    """Whether `node` calls one of `targets`."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Read the static shape of a tensor node from the exporter's metadata."""
    value = node.meta["val"]
    return tuple(int(d) for d in value.shape)


def argument(node: fx.Node, index: int, name: str, default: object = None) -> object:
    """Return an operator argument by position or keyword."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def attribute(module: fx.GraphModule, node: object) -> Tensor | None:
    """Return the weight or constant behind a get_attr node, or None."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: object = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def weight_elements(module: fx.GraphModule) -> int:
    """Count the stored numbers that the graph still refers to, each tensor once."""
    seen = {n.target: attribute(module, n) for n in module.graph.nodes if n.op == "get_attr"}
    return sum(t.numel() for t in seen.values() if t is not None)


def operation_count(module: fx.GraphModule) -> int:
    """Operations in the graph (calls, not weights or inputs)."""
    return sum(n.op == "call_function" for n in module.graph.nodes)


@dataclass
class Editor:
    """Edits one GraphModule; new constants are stored once per `key`, so unrolled steps keep sharing weights.

    `signature` is the graph's border, for rewrites that look at what an input means.
    """

    module: fx.GraphModule
    signature: Signature = _NO_BORDER
    _stored: dict[Hashable, str] = field(default_factory=dict)
    _made: int = 0

    @property
    def graph(self) -> fx.Graph:
        """The graph being edited."""
        return self.module.graph

    def constant(self, before: fx.Node, value: Tensor | Callable[[], Tensor], key: Hashable = None) -> fx.Node:
        """Insert a get_attr node for `value` before `before`.

        Args:
            before: node that will use the constant.
            value: the tensor (float64 is stored as float32), or a function computing it when `key` is new.
            key: two calls with the same key store one tensor.
        """
        name = self._stored.get(key) if key is not None else None
        if name is None:
            tensor = value() if callable(value) else value
            tensor = tensor.to(torch.float32) if tensor.dtype == torch.float64 else tensor
            name = self._fresh_name()
            self.module.register_buffer(name, tensor.detach().contiguous(), persistent=True)
            if key is not None:
                self._stored[key] = name
        with self.graph.inserting_before(before):
            node = self.graph.get_attr(name)
        stored = getattr(self.module, name)
        node.meta["val"] = stored
        return node

    def _fresh_name(self) -> str:
        # Counted, not searched: keys mention names, so the name of a dropped constant must never come back.
        while hasattr(self.module, f"folded_{self._made}"):
            self._made += 1
        self._made += 1
        return f"folded_{self._made - 1}"

    def call(self, before: fx.Node, target: Callable[..., object], *args: object, **kwargs: object) -> fx.Node:
        """Insert a call before `before`, with shape metadata evaluated from its inputs' metadata."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args, kwargs)  # type: ignore[arg-type]
        node.meta["val"] = evaluate_meta(node)
        return node

    def clean(self) -> None:
        """Drop what nothing uses any more: dead calls, then unreferenced weights."""
        # Without the callback fx keeps attention alive: it counts as random because of a dropout that is always 0.
        self.graph.eliminate_dead_code(is_impure_node=lambda n: n.op in ("placeholder", "output"))
        self.graph.lint()
        self.module.delete_all_unused_submodules()
        used = {str(n.target) for n in self.graph.nodes if n.op == "get_attr"}
        for name, _ in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if name not in used:
                owner: torch.nn.Module = self.module
                *path, leaf = name.split(".")
                for part in path:
                    owner = getattr(owner, part)
                delattr(owner, leaf)
        self._stored = {key: name for key, name in self._stored.items() if name in used}
        self.module.recompile()


def evaluate_meta(node: fx.Node) -> object:
    """Shapes and dtypes of a call's result, without computing it."""

    def abstract(value: object) -> object:
        if isinstance(value, fx.Node):
            meta = value.meta["val"]
            return meta.to("meta") if isinstance(meta, Tensor) else meta
        return value

    args = fx.node.map_aggregate(node.args, abstract)  # type: ignore[arg-type]
    kwargs = fx.node.map_aggregate(node.kwargs, abstract)  # type: ignore[arg-type]
    assert callable(node.target)
    return node.target(*args, **kwargs)


# Operators that only move or rename elements of their first argument.
VIEWS = frozenset(
    {
        aten.reshape.default,
        aten.view.default,
        aten._unsafe_view.default,
        aten.transpose.int,
        aten.permute.default,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.contiguous.default,
        aten.clone.default,
        aten.chunk.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.unbind.int,
        aten.slice.Tensor,
        aten.select.int,
    }
)


def is_view(node: object) -> bool:
    """Whether a node only rearranges its first argument (including picking one part of a split)."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return False
    return node.target in VIEWS or getattr(node.target, "__name__", "") == "getitem"


@dataclass(frozen=True)
class Use:
    """Where a producer's elements arrive after views: `user` takes `value`, whose elements are `indices`."""

    user: fx.Node
    value: fx.Node
    indices: Tensor


def channels_in(indices: Tensor, channels: int) -> Tensor:
    """Which of `channels` occur in `indices`, as a mask; sorting millions of indices would take seconds."""
    mask = torch.zeros(channels, dtype=torch.bool)
    mask[indices.reshape(-1)] = True
    return mask


def uses_through_views(producer: fx.Node, channel_dim: int) -> Iterator[Use]:
    """Every non-view use of `producer`, with the channel each element of the used tensor came from.

    A channel index is pushed through the views as data, so any mix of reshape, split and transpose is understood:
    thirds or head-major qkv, fused or separate projections.

    Args:
        producer: node with a static shape.
        channel_dim: which dimension of `producer` holds channels.
    """
    shape = shape_of(producer)
    channels = torch.arange(shape[channel_dim])
    view = [1] * len(shape)
    view[channel_dim] = -1
    index = channels.view(view).expand(shape)
    yield from _follow(producer, index)


def _follow(node: fx.Node, index: object) -> Iterator[Use]:
    for user in node.users:
        if is_view(user) and user.args[0] is node:
            assert callable(user.target)
            yield from _follow(user, user.target(index, *user.args[1:], **user.kwargs))
        else:
            assert isinstance(index, Tensor)
            yield Use(user=user, value=node, indices=index)
