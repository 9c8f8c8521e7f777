"""Capture: the sampler, its network and its constants become one `ExportedProgram` with named inputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from cmexport.errors import UsageError
from cmexport.model import EDITED, ConsistencyModel, SampleRequest, TensorSpec
from cmexport.sampling.editing import check_editing, task_named
from cmexport.sampling.heun import HeunPlan
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import SamplingPlan


@dataclass(frozen=True)
class RewriteReport:
    """What one rewrite did to the graph.

    Attributes:
        name: the rewrite.
        applied: how many places it changed.
        parameters_removed: weights (and stored constants) that left the graph; negative if it added some.
        nodes_removed: operations that left the graph; negative if it added some.
        max_relative_error: largest difference of the pictures before and after, relative to the largest pixel
            before, evaluated in float64; None when it changed nothing.
        note: a decision worth telling ("1000 classes: table would be larger; kept the projections").
    """

    name: str
    applied: int
    parameters_removed: int
    nodes_removed: int
    max_relative_error: float | None
    note: str = ""


@dataclass(frozen=True)
class CapturedGraph:
    """The whole sampler as one program.

    Attributes:
        program: inputs and outputs named as in `inputs` and `outputs`; static shapes.
        inputs: what the graph takes, in order.
        outputs: always one tensor, `image`, or `edited` where an input has that name.
        classes: number of labels the `label` input accepts, None without that input.
        rewrites: the account of every rewrite applied so far.
        image_noise: standard deviation of the noise that is on the `image` input already; 0 where the graph adds it.
    """

    program: ExportedProgram
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: int | None
    rewrites: tuple[RewriteReport, ...] = ()
    image_noise: float = 0.0

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors that the program was traced with, and shares with the model."""
        weights: Mapping[str, Tensor] = self.program.state_dict
        return weights


def graph_inputs(model: ConsistencyModel, plan: SamplingPlan, request: SampleRequest) -> tuple[TensorSpec, ...]:
    """Names, shapes and dtypes at the border of the graph for this request.

    Raises:
        UsageError: a label for an unconditional model, a label out of range, a batch below 1, or a task that doesn't
            fit the model.
    """
    classes = model.conditioning.classes
    if request.batch < 1:
        raise UsageError(f"--batch {request.batch}: must be at least 1")
    if request.label is not None:
        if classes is None:
            raise UsageError(f"--label {request.label}: this model is unconditional and takes no label")
        if not 0 <= request.label < classes:
            raise UsageError(f"--label {request.label}: out of range, this model has labels 0 to {classes - 1}")
    task = check_editing(model, request, plan.steps)
    picture = (request.batch, model.channels, model.space.height, model.space.width)
    specs = [TensorSpec("noise", picture, "float32")] if task.adds_noise else []
    if plan.steps > 1 and not isinstance(plan, HeunPlan):
        specs.append(TensorSpec("renoise", (plan.steps - 1, *picture), "float32"))
    if classes is not None and request.label is None:
        specs.append(TensorSpec("label", (request.batch,), "int64"))
    if "image" in task.inputs:
        specs.append(TensorSpec("image", picture, "float32"))
    if "mask" in task.inputs:
        specs.append(TensorSpec("mask", (request.batch, 1, *picture[2:]), "float32"))
    return tuple(specs)


def example_tensors(specs: tuple[TensorSpec, ...], classes: int | None, seed: int = 0) -> dict[str, Tensor]:
    """One valid set of inputs: unit noise, labels spread over the classes, half a mask; deterministic in `seed`."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for spec in specs:
        if spec.dtype == "int64":
            tensors[spec.name] = (torch.arange(spec.shape[0]) + seed) % (classes or 1)
        else:
            drawn = torch.randn(spec.shape, generator=generator)
            tensors[spec.name] = (drawn > 0).float() if spec.name == "mask" else drawn
    return tensors


def capture(model: ConsistencyModel, plan: SamplingPlan, request: SampleRequest) -> CapturedGraph:
    """Trace the sampler once; every sigma is a Python float by now, so the graph holds numbers, not formulas.

    Raises:
        UsageError: see `graph_inputs`.
    """
    inputs = graph_inputs(model, plan, request)
    classes = label_classes(model, inputs)
    sampler = SamplerGraph(model, plan, request).eval().requires_grad_(False)
    program = trace(sampler, example_tensors(inputs, classes))
    noisy = task_named(request.task).image_noise(plan.sigmas[0])
    output = output_spec(model, request)
    return CapturedGraph(program=program, inputs=inputs, outputs=(output,), classes=classes, image_noise=noisy)


def label_classes(model: ConsistencyModel, inputs: Sequence[TensorSpec]) -> int | None:
    """How many classes a label may name; None where no label is among the inputs."""
    return model.conditioning.classes if any(spec.name == "label" for spec in inputs) else None


def output_spec(model: ConsistencyModel, request: SampleRequest) -> TensorSpec:
    """Name, shape and dtype of the finished pictures."""
    batch, space = request.batch, model.space
    name = EDITED if "image" in task_named(request.task).inputs else "image"
    if request.output == "uint8":
        return TensorSpec(name, (batch, space.height, space.width, space.channels), "uint8")
    return TensorSpec(name, (batch, space.channels, space.height, space.width), "float32")


def trace(module: nn.Module, inputs: Mapping[str, Tensor]) -> ExportedProgram:
    """Export `module` with all inputs passed by name, static shapes, no decomposition."""
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter's own remarks about a network's habits; what matters is compared number by number later.
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        return torch.export.export(module, (), dict(inputs), strict=False)


def to_module(program: ExportedProgram) -> fx.GraphModule:
    """The program as a GraphModule whose weights are attributes, free of the exporter's runtime assertions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch(\.|$)")
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    assertions = {
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
    }
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in assertions and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    return module
