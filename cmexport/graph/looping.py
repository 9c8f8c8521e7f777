"""A sampler of many evaluations as a loop: the network is captured once, the level it is evaluated at is an input.

39 unrolled copies of the network took 1,173 s to trace and rewrite; Heun's 35 evaluations are one copy and a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cmexport.graph.capture import CapturedGraph, RewriteReport, capture
from cmexport.graph.evaluate import exact_picture
from cmexport.graph.exact import ExactRunner
from cmexport.graph.rewrites import tabulate_levels
from cmexport.graph.rewriting import Rewrite, apply_rewrites
from cmexport.graph.tracing import trace
from cmexport.runner import Array
from cmexport.sampling.evaluations import Evaluations
from cmexport.sampling.resolved import Sampler
from cmexport.sampling.samplers import Conditions, to_bytes
from cmexport.signature import Choice, Input, Output, Signature

LEVEL = "level"
"""Input of the body: (1,) int64, which of the plan's levels is evaluated."""


@dataclass(frozen=True)
class CapturedLoop:
    """A looped sampler: its border as in `CapturedGraph`, and what each turn evaluates.

    Attributes:
        body: the network alone. Its inputs are `noise`, the sample times c_in, `level`, and `label` where the loop has
            it; its output is what the network answers.
        plan: the numbers of each turn.
        signature: border of the whole sampler.
    """

    body: CapturedGraph
    plan: Evaluations
    signature: Signature

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The network's own tensors."""
        return self.body.weights

    @property
    def rewrites(self) -> tuple[RewriteReport, ...]:
        """The account of every rewrite applied to the body."""
        return self.body.rewrites


class _Evaluation(nn.Module):
    """The network at one of the plan's levels."""

    c_noise: Tensor

    def __init__(self, sampler: Sampler) -> None:
        super().__init__()
        plan = sampler.plan
        self.network = sampler.model.network
        self.conditions = Conditions(sampler)
        values = dict(zip(plan.level_indices, (e.c_noise for e in plan.evaluations), strict=True))
        c_noise = torch.tensor([values[index] for index in range(len(plan.levels))], dtype=torch.float64)
        self.register_buffer("c_noise", c_noise, persistent=False)

    def forward(self, noise: Tensor, level: Tensor, **given: Tensor) -> Tensor:
        c_noise = self.c_noise.index_select(0, level)
        result: Tensor = self.network(noise, c_noise, **self.conditions(given, len(noise)))
        return result


def capture_loop(sampler: Sampler) -> CapturedLoop:
    """Trace one evaluation of the network, with the noise level as an input."""
    signature = sampler.signature
    noise, *conditions = signature.inputs
    level = Input(LEVEL, (1,), "int64", Choice(len(sampler.plan.levels)), layout=("1",))
    border = Signature((noise, level, *conditions), Output("answer", noise.shape))
    evaluation = _Evaluation(sampler).eval().requires_grad_(False)
    return CapturedLoop(CapturedGraph(trace(evaluation, border.examples()), border), sampler.plan, signature)


def capture_sampler(sampler: Sampler) -> CapturedGraph | CapturedLoop:
    """Capture the sampler as a graph, or as a loop around one."""
    return capture_loop(sampler) if sampler.plan.looped else capture(sampler)


def rewrite_loop(
    loop: CapturedLoop, rewrites: Sequence[Rewrite], progress: Callable[[str], None] = lambda _: None
) -> CapturedLoop:
    """Rewrite the body, the time branch first, whatever else is asked for: its sinusoids need float64.

    Raises:
        RuntimeError: see `apply_rewrites`.
    """
    levels = tabulate_levels.rewrite(LEVEL, len(loop.plan.levels))
    return replace(loop, body=apply_rewrites(loop.body, [levels, *rewrites], progress))


class ExactLoopRunner(ExactRunner):
    """The loop in float64 as a runner: the body as `ExactRunner` runs a graph, once for each evaluation."""

    def __init__(self, loop: CapturedLoop) -> None:
        super().__init__(loop.body)
        self._loop = loop

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; the picture comes back as float64, or as bytes."""
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        plan = self._loop.plan
        sample, output = self._loop.signature.sample.name, self._loop.signature.output
        x = plan.evaluations[0].sigma * tensors.pop(sample).double()
        z = torch.zeros_like(x)
        for index, evaluation, move in zip(plan.level_indices, plan.evaluations, plan.moves, strict=True):
            scaled = {sample: evaluation.c_in * x, LEVEL: torch.tensor([index])}
            answer = exact_picture(self._module, {**tensors, **scaled})
            x, z = move.after(x, z, answer)
        x = x.clamp(-1.0, 1.0) if plan.clamp else x
        return {output.name: (to_bytes(x) if output.is_bytes else x).numpy()}
