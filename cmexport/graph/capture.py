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
from cmexport.model import HUGE_MODEL
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.samplers import TARGET, SamplerGraph
from cmexport.sampling.stages import Stage
from cmexport.signature import Signature

AMPLIFYING = 2.0
"""Beyond this, the sampler's factor on what the network answers makes its rounding the pictures': 14.65 for epsilon
prediction at t = 999, and 0.5 or less where the preconditioning keeps to the pictures' own spread."""

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
        measured: on what the error was measured, where that is not the whole sampler.
    """

    name: str
    applied: int
    parameters_removed: int
    nodes_removed: int
    max_relative_error: float | None
    note: str = ""
    measured: str = ""


@dataclass(frozen=True)
class CapturedGraph:
    """The whole sampler as one program.

    Attributes:
        program: inputs named as in the signature; static shapes.
        signature: its border.
        rewrites: the account of every rewrite applied so far.
        brief: for a sampler of more than `BRIEF_STEPS` steps, the same with its first and last evaluation only, on
            which rewrites are measured one by one; of a huge model with its first one only, for all steps but one.
        amplification: by how much the sampler multiplies the network's rounding; see `Sampler.amplification`. A model
            that predicts the noise has 14.6 at LCM's first timestep.
    """

    program: ExportedProgram
    signature: Signature
    rewrites: tuple[RewriteReport, ...] = ()
    brief: CapturedGraph | None = None
    amplification: float = 1.0

    def examples(self, run: int = 0) -> dict[str, Tensor]:
        """Make inputs as an app would feed them, for measuring: see `Signature.examples`."""
        return self.signature.examples(run)

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The tensors that the program was traced with, and shares with the model."""
        weights: Mapping[str, Tensor] = self.program.state_dict
        return weights


def capture_stage(stage: Stage) -> CapturedGraph:
    """Trace a part of a sampler."""
    if stage.sampler is not None:
        return capture(stage.sampler)
    module = stage.module().eval().requires_grad_(False)
    return CapturedGraph(trace(module, stage.signature.examples()), stage.signature)


def capture(sampler: Sampler) -> CapturedGraph:
    """Trace the sampler once; every sigma is a Python float by now, so the graph holds numbers, not formulas."""
    steps = sampler.plan.steps
    if steps == 1:
        return _captured(sampler, trace)
    # One trace for all steps of the sampler, and of the brief one.
    unrolled = partial(trace_unrolled, evaluation=_trace_network(sampler))
    whole = _captured(sampler, unrolled)
    if sampler.work > HUGE_MODEL:
        # 35 s of processor time for an evaluation of Stable Diffusion 1.5 in float64.
        return replace(whole, brief=_captured(sampler.with_first(), unrolled))
    return whole if steps <= BRIEF_STEPS else replace(whole, brief=_captured(sampler.with_ends(), unrolled))


def _captured(
    sampler: Sampler, record: Callable[[SamplerGraph, Mapping[str, Tensor]], ExportedProgram]
) -> CapturedGraph:
    module = SamplerGraph(sampler).eval().requires_grad_(False)
    program = record(module, sampler.signature.examples())
    return CapturedGraph(program, sampler.signature, amplification=sampler.amplification)


def _trace_network(sampler: Sampler) -> ExportedProgram:
    """Trace the network as every step evaluates it."""
    model, x = sampler.model, torch.zeros(sampler.signature.sample.shape)
    conditions = {c.name: c.example(len(x)) for c in model.conditions}
    if sampler.plan.evaluations[0].c_noise_target is not None:
        conditions[TARGET] = torch.zeros(1, dtype=torch.float64)
    return trace_evaluation(model.network, x, torch.zeros(1, dtype=torch.float64), conditions)
