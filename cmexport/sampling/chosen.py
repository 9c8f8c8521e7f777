"""The sampler that a request names: its plan of constants, and the PyTorch module that runs it."""

from __future__ import annotations

from torch import nn

from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.heun import HeunPlan, HeunSampler, plan_heun
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import SamplingPlan, plan_sampling

SAMPLERS = ("consistency", "heun")


def plan_request(model: ConsistencyModel, request: SampleRequest) -> SamplingPlan:
    """The constants of `request.sampler` at `request.sigmas`.

    Raises:
        UsageError: levels out of order or out of range.
    """
    if request.sampler == "heun":
        return plan_heun(model, request.sigmas)
    return plan_sampling(model, request.sigmas)


def sampler_module(model: ConsistencyModel, plan: SamplingPlan, request: SampleRequest) -> nn.Module:
    """The plan as a module whose inputs are named as the graph's."""
    if isinstance(plan, HeunPlan):
        return HeunSampler(model, plan, request).eval()
    return SamplerGraph(model, plan, request).eval()
