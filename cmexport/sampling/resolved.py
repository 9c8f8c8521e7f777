"""A sampler with everything decided: which model, which numbers, which border."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.networks.guided import GuidedNetwork
from cmexport.sampling.border import baked_values, border_of
from cmexport.sampling.evaluations import Evaluation, Evaluations
from cmexport.sampling.listing import listed
from cmexport.sampling.prompting import conditioned
from cmexport.sampling.schedules import Schedule
from cmexport.sampling.transforms import transform_of
from cmexport.signature import Signature


@dataclass(frozen=True)
class Method:
    """One `--sampler`; they are registered in `sampling.methods`.

    Attributes:
        plan: folds the constants for a request; no levels in it means its own.
        spaced: its levels for a number of steps (None: its own number), a task, and the number of steps that editing
            takes where nobody says.
        module: the PyTorch reference.
        ending: what it does after the last level, for the account of the schedule; "" for the closing of the model.
        edits: whether it does tasks besides "generate".
        tuned: whether the levels that `cmexport tune` finds are for it.
        in_name: whether artefacts are called after it, because it isn't what the model was trained for.
        tables: whether it samples models whose levels are a table of alphas, `ConsistencyModel.schedule`.
    """

    plan: Callable[[ConsistencyModel, SampleRequest], Evaluations]
    spaced: Callable[[ConsistencyModel, int | None, str, int], Schedule]
    module: Callable[[Sampler], nn.Module]
    ending: str = ""
    edits: bool = True
    tuned: bool = True
    in_name: bool = False
    tables: bool = False


@dataclass(frozen=True)
class Sampler:
    """A request resolved for a model, once; everything after it reads and nothing decides again.

    What finishes the pictures has no noun of its own: `plan.clamp` and `signature.output` say it.

    Attributes:
        model: supplies the network.
        request: what was asked for.
        plan: float64 constants of every evaluation.
        signature: border of the graph.
        method: how it samples.
    """

    model: ConsistencyModel
    request: SampleRequest
    plan: Evaluations
    signature: Signature
    method: Method

    @classmethod
    def of(cls, model: ConsistencyModel, request: SampleRequest, method: Method) -> Sampler:
        """Decide all of a request for a model: method, plan, border.

        Raises:
            UsageError: levels out of order or out of range; also see `border_of`.
        """
        if model.schedule is not None and not method.tables:
            raise UsageError(
                f"--sampler {request.sampler}: this model's levels are {model.schedule.title}'s timesteps; "
                "it has --sampler consistency and tcd"
            )
        if model.policy is not None and request.sampler != "consistency":
            raise UsageError(f"--sampler {request.sampler}: a policy plans actions by its own steps, consistency")
        if request.eta is not None and model.schedule is None:
            raise UsageError(f"--eta {request.eta:g}: only --sampler tcd has one, for latent few-step models")
        if request.gamma is not None and request.sampler != "gamma":
            raise UsageError(f"--gamma {request.gamma:g}: only --sampler gamma has one")
        model = listed(conditioned(model, request), request.levels_of)
        plan = method.plan(model, request)
        if plan.looped and model.codec is not None:
            raise UsageError(f"--sampler {request.sampler}: not for a model of latents")
        return cls(model, request, plan, border_of(model, plan, request), method)

    @property
    def name(self) -> str:
        """What artefacts are called after: the checkpoint, and the method where it is not the model's own."""
        name = self.model.source.name
        return f"{name}-{self.request.sampler}{len(self.request.sigmas)}" if self.method.in_name else name

    @property
    def baked(self) -> dict[str, float]:
        """Values that are constants of the graph; see `border.baked_values`."""
        return baked_values(self.model, self.request)

    @property
    def work(self) -> int:
        """Weights, counted once for each evaluation: what a picture costs."""
        return self.model.parameters * self.plan.steps

    @property
    def amplification(self) -> float:
        """By how much what the network rounds is multiplied, at least 1: by c_out, our own guidance, a transform."""
        network = self.model.network
        guided = network.amplification if isinstance(network, GuidedNetwork) else 1.0
        transform = transform_of(self.model, self.request)
        guided *= 1.0 if transform is None else transform.slope
        return max(1.0, *(guided * abs(evaluation.c_out) for evaluation in self.plan.evaluations))

    def module(self) -> nn.Module:
        """Return the PyTorch reference; its inputs are named as the graph's."""
        return self.method.module(self).eval()

    def with_batch(self, batch: int) -> Sampler:
        """Return the same sampler for another number of pictures."""
        request = replace(self.request, batch=batch)
        return replace(self, request=request, signature=self.signature.with_batch(batch))

    def with_ends(self) -> Sampler:
        """Return the same sampler with the first and the last evaluation only."""
        return self._with(self.plan.evaluations[0], self.plan.evaluations[-1])

    def with_first(self) -> Sampler:
        """Return the same sampler with the first evaluation only."""
        return self._with(self.plan.evaluations[0])

    def _with(self, *evaluations: Evaluation) -> Sampler:
        plan = replace(self.plan, evaluations=evaluations)
        return replace(self, plan=plan, signature=border_of(self.model, plan, self.request))
