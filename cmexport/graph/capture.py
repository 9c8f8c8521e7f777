"""Capture: the sampler, its network and its constants become one `ExportedProgram` with named inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from cmexport.errors import UsageError
from cmexport.graph.tracing import trace
from cmexport.graph.unrolling import trace_evaluation, trace_unrolled
from cmexport.model import EDITED, ConsistencyModel, SampleRequest, TensorSpec
from cmexport.sampling.editing import check_editing, task_named
from cmexport.sampling.heun import HeunPlan
from cmexport.sampling.made_up import hole, made_up_picture
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import SamplingPlan

BRIEF_STEPS = 2
"""Up to this many steps every rewrite is measured on the whole sampler."""


@dataclass(frozen=True)
class RewriteReport:
    """What one rewrite did to the graph.

    Attributes:
        name: the rewrite.
        applied: how many places it changed.
        parameters_removed: weights (and stored constants) that left the graph; negative if it added some.
        nodes_removed: operations that left the graph; negative if it added some.
        max_relative_error: largest difference of the pictures before and after, relative to the largest pixel
            before, evaluated in float64; None when it changed nothing. Beyond 100 M weights that of all rewrites
            together.
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
        brief: for a sampler of more than `BRIEF_STEPS` steps, the same with its first and last evaluation only, on
            which rewrites are measured one by one.
    """

    program: ExportedProgram
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: int | None
    rewrites: tuple[RewriteReport, ...] = ()
    image_noise: float = 0.0
    brief: CapturedGraph | None = None

    def examples(self, seed: int = 0) -> dict[str, Tensor]:
        """Inputs as an app would feed them, for measuring: see `example_tensors`."""
        return example_tensors(self.inputs, self.classes, seed, image_noise=self.image_noise)

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


def example_tensors(
    specs: tuple[TensorSpec, ...], classes: int | None, seed: int = 0, *, image_noise: float = 0.0
) -> dict[str, Tensor]:
    """One valid set of inputs: unit noise, labels spread over the classes, pictures and masks by `sampling.made_up`.

    Deterministic in `seed`. With a batch of 1 they are what verification draws for that seed, the label apart.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for spec in specs:
        if spec.dtype == "int64":
            tensors[spec.name] = (torch.arange(spec.shape[0]) + seed) % (classes or 1)
        elif spec.name in ("image", "mask"):
            count, *shape = spec.shape
            masks = spec.name == "mask"
            drawn = [
                hole(shape, generator) if masks else made_up_picture(shape, generator, image_noise)
                for _ in range(count)
            ]
            tensors[spec.name] = torch.from_numpy(np.stack(drawn)).float()
        else:
            tensors[spec.name] = torch.randn(spec.shape, generator=generator)
    return tensors


def capture(model: ConsistencyModel, plan: SamplingPlan, request: SampleRequest) -> CapturedGraph:
    """Trace the sampler once; every sigma is a Python float by now, so the graph holds numbers, not formulas.

    Raises:
        UsageError: see `graph_inputs`.
    """
    if plan.steps == 1:
        return _captured(model, plan, request, trace)
    # One trace for all steps of the sampler, and of the brief one.
    unrolled = partial(trace_unrolled, evaluation=_trace_network(model, request))
    whole = _captured(model, plan, request, unrolled)
    if plan.steps <= BRIEF_STEPS:
        return whole
    ends = replace(plan, evaluations=(plan.evaluations[0], plan.evaluations[-1]))
    return replace(whole, brief=_captured(model, ends, request, unrolled))


def _captured(
    model: ConsistencyModel,
    plan: SamplingPlan,
    request: SampleRequest,
    record: Callable[[SamplerGraph, Mapping[str, Tensor]], ExportedProgram],
) -> CapturedGraph:
    inputs = graph_inputs(model, plan, request)
    classes = label_classes(model, inputs)
    sampler = SamplerGraph(model, plan, request).eval().requires_grad_(False)
    return CapturedGraph(
        program=record(sampler, example_tensors(inputs, classes)),
        inputs=inputs,
        outputs=(output_spec(model, request),),
        classes=classes,
        image_noise=task_named(request.task).image_noise(plan.sigmas[0]),
    )


def _trace_network(model: ConsistencyModel, request: SampleRequest) -> ExportedProgram:
    """The network as every step evaluates it."""
    space = model.space
    x = torch.zeros(request.batch, space.channels, space.height, space.width)
    label = None if model.conditioning.classes is None else torch.zeros(request.batch, dtype=torch.int64)
    return trace_evaluation(model.network, x, torch.zeros(1, dtype=torch.float64), label)


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
