"""From an edited graph back to an `ExportedProgram`, without tracing it again.

`torch.export.export` runs every operation through its shape rules and Python's dispatcher: 0.45 s for one evaluation of
the demo's network, 16 s for 39 of them. After a rewrite all of that is known already: every node carries its shape, the
weights are attributes, and what is missing is bookkeeping, as `torch/export/exported_program.py` defines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram, ExportGraphSignature, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, OutputSpec, TensorArgument
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils import _pytree as pytree

from cmexport.graph.fxtools import attribute


def assemble(module: fx.GraphModule, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Make the graph of `module` a program that takes `inputs` by name and returns its one result.

    Nodes are named as tracing would name them: after their operators, counted in the order of the graph.

    Args:
        module: placeholders named as `inputs`, weights behind get_attr nodes, "val" on every node.
        inputs: one tensor for each placeholder, of its shape and dtype.

    Raises:
        ValueError: a placeholder has no input of its name.
    """
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    if missing := sorted({n.name for n in placeholders} - set(inputs)):
        raise ValueError(f"no example for input {missing[0]}")
    builder = _Builder(module)
    weights = builder.weights()
    for node in placeholders:
        builder.user_input(node)
    builder.operations()
    output = builder.output()
    result = _LazyGraphModule(nn.Module(), builder.graph)
    names = [n.name for n in placeholders]
    signature = ExportGraphSignature(
        input_specs=[
            *(
                InputSpec(
                    InputKind.PARAMETER if isinstance(tensor, nn.Parameter) else InputKind.BUFFER,
                    TensorArgument(name=lifted),
                    target,
                    None if isinstance(tensor, nn.Parameter) else True,
                )
                for target, (lifted, tensor) in weights.items()
            ),
            *(InputSpec(InputKind.USER_INPUT, TensorArgument(name=name), None) for name in names),
        ],
        output_specs=[OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(name=output), None)],
    )
    arguments = {name: inputs[name] for name in names}
    in_spec = pytree.tree_structure(((), arguments))
    call = ModuleCallSignature(
        inputs=[], outputs=[], in_spec=in_spec, out_spec=pytree.tree_structure(0), forward_arg_names=names
    )
    return ExportedProgram(
        root=result,
        graph=result.graph,
        graph_signature=signature,
        state_dict={target: tensor for target, (_, tensor) in weights.items()},
        range_constraints={},
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
        example_inputs=((), arguments),
        constants={},
    )


class _Builder:
    """Copies a graph with its weights as placeholders in front."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.graph = fx.Graph()
        self._module = module
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._copied: dict[fx.Node, fx.Node] = {}

    def weights(self) -> dict[str, tuple[str, Tensor]]:
        """Add a placeholder for every weight in use, by the weight's name: parameters in graph order, then buffers."""
        used: dict[str, list[fx.Node]] = {}
        for node in self._module.graph.nodes:
            if node.op == "get_attr":
                used.setdefault(str(node.target), []).append(node)
        kinds = {name: isinstance(attribute(self._module, nodes[0]), nn.Parameter) for name, nodes in used.items()}
        parameters = [name for name in used if kinds[name]]
        buffers = [name for name, _ in self._module.named_buffers(remove_duplicate=False) if name in used]
        lifted = {}
        for prefix, names in (("p", parameters), ("b", buffers)):
            for name in names:
                tensor = attribute(self._module, used[name][0])
                assert tensor is not None
                placeholder = self.graph.placeholder(f"{prefix}_{name.replace('.', '_')}")
                placeholder.meta["val"] = self._described(tensor)
                lifted[name] = (placeholder.name, tensor)
                for node in used[name]:
                    self._copied[node] = placeholder
        return lifted

    def user_input(self, node: fx.Node) -> None:
        """Copy an input as a placeholder of the same name."""
        copy = self.graph.placeholder(node.name)
        assert copy.name == node.name
        copy.meta["val"] = self._described(node.meta["val"])
        self._copied[node] = copy

    def operations(self) -> None:
        """Copy all calls of the module, in order."""
        for node in self._module.graph.nodes:
            if node.op != "call_function":
                continue
            args = fx.map_arg(node.args, self._copied.__getitem__)
            kwargs = fx.map_arg(node.kwargs, self._copied.__getitem__)
            copy = self.graph.create_node("call_function", node.target, _shortest(node, args), kwargs, _name(node))
            copy.meta = {k: node.meta[k] for k in ("nn_module_stack", "torch_fn", "stack_trace") if k in node.meta}
            copy.meta["val"] = pytree.tree_map(self._described, node.meta["val"])
            self._copied[node] = copy

    def output(self) -> str:
        """Make the copied result the graph's output and return its name."""
        node = next(n for n in self._module.graph.nodes if n.op == "output")
        (result,) = node.all_input_nodes
        self.graph.output((self._copied[result],))
        return self._copied[result].name

    def _described(self, value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        with self._mode:
            return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype)


def _name(node: fx.Node) -> str:
    """Return what tracing would base this node's name on: the operator without its overload."""
    operator = node.target
    return str(operator.overloadpacket.__name__ if isinstance(operator, OpOverload) else operator.__name__)  # type: ignore[union-attr]


def _shortest(node: fx.Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments without the trailing ones that are the operator's defaults, as tracing writes them."""
    if not isinstance(node.target, OpOverload):
        return args
    parameters = node.target._schema.arguments[: len(args)]
    while args and parameters[len(args) - 1].has_default_value() and not isinstance(args[-1], fx.Node):
        default = parameters[len(args) - 1].default_value
        if type(args[-1]) is not type(default) or args[-1] != default:
            break
        args = args[:-1]
    return args
