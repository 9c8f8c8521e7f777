"""Capture: the sampler, its network and its constants become one `ExportedProgram` with named inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.export import ExportedProgram

from cmexport.graph.tracing import trace
from cmexport.graph.unrolling import trace_evaluation, trace_unrolled
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.border import border_of
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import SamplingPlan
from cmexport.signature import Signature

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
        program: inputs named as in the signature; static shapes.
        signature: its border.
        rewrites: the account of every rewrite applied so far.
        brief: for a sampler of more than `BRIEF_STEPS` steps, the same with its first and last evaluation only, on
            which rewrites are measured one by one.
    """

    program: ExportedProgram
    signature: Signature
    rewrites: tuple[RewriteReport, ...] = ()
    brief: CapturedGraph | None = None

    def examples(self, run: int = 0) -> dict[str, Tensor]:
        """Inputs as an app would feed them, for measuring: see `Signature.examples`."""
        return self.signature.examples(run)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors that the program was traced with, and shares with the model."""
        weights: Mapping[str, Tensor] = self.program.state_dict
        return weights


def capture(model: ConsistencyModel, plan: SamplingPlan, request: SampleRequest) -> CapturedGraph:
    """Trace the sampler once; every sigma is a Python float by now, so the graph holds numbers, not formulas.

    Raises:
        UsageError: see `border_of`.
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
    signature = border_of(model, plan, request)
    sampler = SamplerGraph(model, plan, request).eval().requires_grad_(False)
    return CapturedGraph(record(sampler, signature.examples()), signature)


def _trace_network(model: ConsistencyModel, request: SampleRequest) -> ExportedProgram:
    """The network as every step evaluates it."""
    space = model.space
    x = torch.zeros(request.batch, space.channels, space.height, space.width)
    label = None if model.conditioning.classes is None else torch.zeros(request.batch, dtype=torch.int64)
    return trace_evaluation(model.network, x, torch.zeros(1, dtype=torch.float64), label)
