"""Evaluate a graph, or the part of it that depends on no input, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import torch
from torch import Tensor, fx


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if value in (torch.float32, torch.float16, torch.bfloat16) else value


class Float64Interpreter(fx.Interpreter):
    """Runs a float32 graph in float64: weights are widened by the call that uses them, casts to float stay wide.

    Widening a whole 296 M parameter network at once would take 2.4 GB; one layer takes 0.1.
    """

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call with float dtypes replaced by float64."""
        return super().call_function(target, fx.node.map_aggregate(args, _widen), fx.node.map_aggregate(kwargs, _widen))


class UnfinishedInterpreter(fx.Interpreter):
    """Skips the operations between the last sum and the output: clamp and rounding hide differences and gradients."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._skipped = set(finishing_nodes(module.graph))

    def run_node(self, n: fx.Node) -> Any:
        """Run the node, or pass its input through."""
        return self.env[_taken(n)[0]] if n in self._skipped else super().run_node(n)


class _UnclampedInterpreter(UnfinishedInterpreter, Float64Interpreter):
    """Runs in float64 and skips clamp and rounding."""


def finishing_nodes(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """Return what finishes the picture, last first: clamp, scaling to bytes, rounding, layout.

    All with a single input, from the first clamp to [-1, 1] on: a decoder's own scaling before it is no finish, and a
    rewrite may take it away.
    """
    node = next(n for n in graph.nodes if n.op == "output")
    chain: list[fx.Node] = []
    while len(taken := _taken(node)) == 1 and (node := taken[0]).op == "call_function":
        if len(_taken(node)) == 1:
            chain.append(node)
    clamps = [i for i, n in enumerate(chain) if n.target is torch.ops.aten.clamp.default and n.args[1] == -1.0]
    # Where nothing is clamped, a constant that scales is the network's.
    return tuple(chain[: clamps[-1] + 1] if clamps else takewhile(lambda n: len(n.all_input_nodes) == 1, chain))


def _taken(node: fx.Node) -> list[fx.Node]:
    """Return what a node takes, without the constants by which sums and products scale actions."""
    scales = node.target in (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor)
    return [each for each in node.all_input_nodes if not (scales and each.op == "get_attr")]


def exact_picture(module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the graph's picture with floats in float64 (bytes stay bytes); `inputs` by placeholder name."""
    return _run(Float64Interpreter(module), inputs)


def unclamped_picture(module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the picture (N, C, H, W) in float64 before the final clamp; `inputs` by placeholder name."""
    return _run(_UnclampedInterpreter(module), inputs)


def unclamped_float32_picture(module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the picture as the graph computes it, in float32, before the final clamp; widened for comparing."""
    with torch.no_grad():
        return run_picture(UnfinishedInterpreter(module), inputs).double()


def _run(interpreter: Float64Interpreter, inputs: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return run_picture(interpreter, {name: _widen(value) for name, value in inputs.items()})


def run_picture(interpreter: fx.Interpreter, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the one tensor that a captured graph returns; `inputs` by placeholder name."""
    names = [n.name for n in interpreter.graph.nodes if n.op == "placeholder"]
    result = interpreter.run(*(inputs[name] for name in names), enable_io_processing=False)
    while isinstance(result, tuple | list):
        result = result[0]
    assert isinstance(result, Tensor)
    return result


T = TypeVar("T")

_TOGETHER = 8
_BUSY = 30_000_000
"""Weights of a network whose layers are large enough for all cores, and whose activations had better exist once."""


def run_together(run: Callable[[Mapping[str, Tensor]], T], inputs: Sequence[Mapping[str, Tensor]]) -> T:
    """Return what `run` returns for each of `inputs`, its tensors stacked along a new first axis, from one call.

    Eight pictures of the demo model take 19 ms each on two cores where one alone takes 40. Results differ from those of
    single calls in their last bits.

    Args:
        run: from inputs by name to tensors in dicts, lists or tuples; may not look at values.
        inputs: of the same names and shapes.
    """
    stacked = {name: torch.stack([given[name] for given in inputs]) for name in inputs[0]}
    # An operator without a rule of its own is called picture by picture; torch says so on stderr each time.
    warn: Callable[[bool], None] = torch._C._functorch._set_vmap_fallback_warning_enabled  # type: ignore[attr-defined]
    warn(False)
    try:
        result: T = torch.func.vmap(run)(stacked)
    finally:
        warn(True)
    return result


def pictures_together(weights: Iterable[Tensor]) -> int:
    """How many pictures to hand to `run_together` at once: one where a single one keeps all cores busy."""
    return 1 if sum(weight.numel() for weight in weights) > _BUSY else _TOGETHER


class PartialEvaluator:
    """Evaluates chosen nodes of a graph in float64 from given values, remembering what it has computed."""

    def __init__(self, module: fx.GraphModule, known: Mapping[fx.Node, Tensor]) -> None:
        self._module = module
        self._interpreter = Float64Interpreter(module, garbage_collect_values=False)
        self._interpreter.env = {node: _widen(value) for node, value in known.items()}

    def extended(self, known: Mapping[fx.Node, Tensor]) -> PartialEvaluator:
        """Another evaluator that starts with everything known here and `known` besides."""
        return PartialEvaluator(self._module, {**self._interpreter.env, **known})

    def value(self, node: fx.Node) -> Any:
        """Return the node's value; every input must lead to weights or to known nodes."""
        env = self._interpreter.env
        pending = [node]
        with torch.no_grad():
            while pending:
                current = pending[-1]
                missing = [n for n in current.all_input_nodes if n not in env]
                if current in env or not missing:
                    if current not in env:
                        # Widened once here: 1000 labels would widen the same embedding 1000 times (6.6 s).
                        env[current] = _widen(self._interpreter.run_node(current))
                    pending.pop()
                else:
                    pending.extend(missing)
        return env[node]
