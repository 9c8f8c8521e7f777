"""The layers of a captured graph that can compute in 8 bits, under the names their authors gave them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from torch import Tensor, fx

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.fxtools import argument, aten, attribute, is_op, is_view
from cmexport.graph.tracing import to_module
from cmexport.quantize.weights import LEAST_ELEMENTS

NETWORK = "network."
"""What the sampler calls the checkpoint's network; left out of keys."""


@dataclass(frozen=True)
class WeightedOperator:
    """An operator (input, weight, bias, ...) that multiplies by a stored matrix.

    Attributes:
        kind: "conv" on (N, C, H, W), "linear" and "attention" on (..., C).
        transposed: output channels are the weight's last axis, not its first.
    """

    kind: str
    transposed: bool = False


OPERATORS: Mapping[Callable[..., Any], WeightedOperator] = MappingProxyType(
    {aten.conv2d.default: WeightedOperator("conv"), aten.linear.default: WeightedOperator("linear")}
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight and every node that multiplies by it (few-step graphs evaluate a layer once per step).

    Attributes:
        key: module path in the checkpoint's network, "input_blocks.1.0.in_layers.2".
        role: "picture" (reads or writes the picture), "pointwise" (1x1 convolution), "spatial" (other convolutions),
            "linear" or "attention".
        nodes: names in the graph.
        operator: how they hold the weight.
        weight: (channels_out, channels_in, ...), float32.
        attended: whether the input is what attention hands on.
        rectified: whether the input is what a ReLU gives: nothing below 0 will come.
    """

    key: str
    role: str
    nodes: tuple[str, ...]
    operator: WeightedOperator
    weight: Tensor
    attended: bool = False
    rectified: bool = False

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.weight.shape[1]

    @property
    def elements_per_channel(self) -> int:
        """Weights that one input channel meets for one output channel: 9 for a 3x3 convolution."""
        return int(self.weight[0, 0].numel()) if self.weight.dim() > 2 else 1

    def spread(self, per_channel: Tensor) -> Tensor:
        """Numbers per input channel, shaped to multiply the weight."""
        return per_channel.reshape(1, -1, *(1,) * (self.weight.dim() - 2))

    def along(self, per_channel: Tensor) -> Tensor:
        """Numbers per input channel (C,), shaped to meet this layer's input."""
        return per_channel.reshape(1, -1, 1, 1) if self.operator.kind == "conv" else per_channel

    def along_output(self, per_channel: Tensor) -> Tensor:
        """Numbers per output channel (O,), shaped to meet this layer's output."""
        return self.along(per_channel)

    def rows(self, value: Tensor) -> Tensor:
        """This layer's input or output as (channels, positions)."""
        return value.transpose(0, 1).flatten(1) if self.operator.kind == "conv" else value.flatten(0, -2).t()


def find_layers(
    captured: CapturedGraph, operators: Mapping[Callable[..., Any], WeightedOperator] = OPERATORS
) -> tuple[Layer, ...]:
    """All layers with at least `LEAST_ELEMENTS` weights, in the graph's order.

    Grouped and dilated convolutions are left out: no target has a form for them here.
    """
    module = to_module(captured.program)
    picture = captured.signature.sample.shape[1]
    found: dict[str, Layer] = {}
    for node in module.graph.nodes:
        operator = operators.get(node.target) if node.op == "call_function" else None
        weight = None if operator is None else attribute(module, node.args[1])
        if operator is None or weight is None or weight.numel() < LEAST_ELEMENTS or not _plain(node, operator):
            continue
        matrix = weight.detach().t() if operator.transposed else weight.detach()
        name = str(node.args[1].target)
        if name in found:
            known = found[name]
            found[name] = replace(known, nodes=(*known.nodes, node.name))
        else:
            key = _unused(layer_key(node), {layer.key for layer in found.values()})
            role = _role(operator, matrix, picture)
            source = node.args[0]
            found[name] = Layer(key, role, (node.name,), operator, matrix, _attended(source), _rectified(source))
    return tuple(found.values())


def _plain(node: fx.Node, operator: WeightedOperator) -> bool:
    if operator.kind != "conv":
        return True
    dilation, groups = argument(node, 5, "dilation", [1, 1]), argument(node, 6, "groups", 1)
    padding = argument(node, 4, "padding", [0, 0])
    return list(dilation) == [1, 1] and groups == 1 and not isinstance(padding, str)  # type: ignore[call-overload]


def _role(operator: WeightedOperator, weight: Tensor, picture: int) -> str:
    if operator.kind != "conv":
        return operator.kind
    # Editing tasks hand the network nothing but the picture's channels either.
    if weight.shape[1] <= picture or weight.shape[0] <= picture:
        return "picture"
    return "pointwise" if weight[0, 0].numel() == 1 else "spatial"


def _attended(source: object) -> bool:
    """Whether a node is an attention's result, in another layout perhaps."""
    while is_view(source) or is_op(source, aten.dropout.default):
        source = source.args[0]  # type: ignore[attr-defined]
    return isinstance(source, fx.Node) and ("attention" in str(source.target) or is_op(source, aten.matmul.default))


def _rectified(source: object) -> bool:
    """Whether a node is a ReLU's result, in another layout or larger perhaps."""
    while is_view(source) or is_op(source, aten.upsample_nearest2d.vec):
        source = source.args[0]  # type: ignore[attr-defined]
    return is_op(source, aten.relu.default)


def layer_key(node: fx.Node) -> str:
    """The module path of a weighted node: from its weight's or bias' name, its module, or the norm before it."""
    for operand in node.args[1:3]:
        if isinstance(operand, fx.Node) and operand.op == "get_attr" and "." in str(operand.target):
            return str(operand.target).rsplit(".", 1)[0].removeprefix(NETWORK)
    if path := _module_path(node):
        return path
    # Rewrites that replace a whole block leave no name: the block is that of the nearest named operation before.
    source: Any = node.args[0]
    while isinstance(source, fx.Node) and not _module_path(source):
        source = source.all_input_nodes[0] if source.all_input_nodes else None
    parent = _module_path(source).rpartition(".")[0] if isinstance(source, fx.Node) else ""
    own = "qkv" if "attention" in str(node.target) else str(node.name)
    return f"{parent}.{own}" if parent else own


def _module_path(node: fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    return path.removeprefix(NETWORK) if path.startswith(NETWORK) else ""


def _unused(key: str, taken: set[str]) -> str:
    candidate, count = key, 1
    while candidate in taken:
        count += 1
        candidate = f"{key}#{count}"
    return candidate


class Multiply(Protocol):
    """A node's operation as a function of its input, its weight and what is added to its bias."""

    def __call__(self, x: Tensor, weight: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Compute with `weight` (channels_out, ...), else the stored one, and the bias plus `shift` (channels_out,)."""
        ...


At = Callable[[Layer, fx.Node, Tensor, Multiply], Tensor]
"""What to compute at a layer's node: gets the layer, the node, its input and the ordinary operation."""


class LayerInterpreter(fx.Interpreter):
    """Runs a module; at the nodes of the given layers `at` decides what is computed."""

    def __init__(self, module: fx.GraphModule, layers: Iterable[Layer], at: At) -> None:
        super().__init__(module)
        # fx would append the graph and a stack trace to the message of what `at` raises.
        self.extra_traceback = False
        self._layers = {name: layer for layer in layers for name in layer.nodes}
        self._at = at

    def run_node(self, n: fx.Node) -> Any:
        """Run, or ask."""
        layer = self._layers.get(n.name)
        if layer is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        target: Any = n.target

        def multiply(x: Tensor, weight: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
            stored = args[1] if weight is None else weight.t() if layer.operator.transposed else weight
            bias = args[2] if len(args) > 2 else None
            if shift is not None:
                bias = shift if bias is None else bias + shift
            result = target(x, stored, bias, *args[3:], **kwargs)
            assert isinstance(result, Tensor)
            return result

        return self._at(layer, n, args[0], multiply)
