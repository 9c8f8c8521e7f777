"""The samplers there are, by the name that `--sampler` takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.deterministic import euler_schedule, exact_schedule, plan_euler, plan_exact
from cmexport.sampling.heun import HEUN_STEPS, HeunSampler, heun_schedule, plan_heun
from cmexport.sampling.resolved import Method, Sampler
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import Schedule, default_schedule, plan_sampling, schedule_for_steps


def _consistency_levels(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    if steps is None:
        return default_schedule(model, task, editing_steps)
    return schedule_for_steps(model, steps, task)


def _heun_levels(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    del task, editing_steps
    return heun_schedule(model, HEUN_STEPS if steps is None else steps)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "consistency": Method(plan_sampling, _consistency_levels, SamplerGraph),
        "heun": Method(
            plan_heun,
            _heun_levels,
            HeunSampler,
            ending=", then 0: Heun's method",
            edits=False,
            tuned=False,
            in_name=True,
        ),
        "exact": Method(
            plan_exact,
            exact_schedule,
            SamplerGraph,
            ending=", then sigma_min: exact jumps",
            edits=False,
            tuned=False,
            in_name=True,
        ),
        "euler": Method(
            plan_euler,
            euler_schedule,
            SamplerGraph,
            ending=", then 0: Euler steps",
            edits=False,
            tuned=False,
            in_name=True,
        ),
    }
)


def method_named(name: str, task: str = "generate") -> Method:
    """Find the method that `--sampler` names.

    Raises:
        UsageError: the name is unknown, or the method can't do the task.
    """
    if name not in METHODS:
        raise UsageError(f"--sampler {name}: known are {', '.join(METHODS)}")
    if task != "generate" and not METHODS[name].edits:
        able = " and ".join(n for n, method in METHODS.items() if method.edits)
        raise UsageError(f"--sampler {name} --task {task}: it only generates; editing takes --sampler {able}")
    return METHODS[name]


def resolve(model: ConsistencyModel, request: SampleRequest | None = None) -> Sampler:
    """Decide everything of a request, which is one step by default.

    Raises:
        UsageError: see `method_named` and `Sampler.of`.
    """
    wanted = request or SampleRequest()
    return Sampler.of(model, wanted, method_named(wanted.sampler, wanted.task))
