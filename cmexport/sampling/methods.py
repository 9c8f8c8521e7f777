"""The samplers there are, by the name that `--sampler` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from cmexport.errors import UsageError
from cmexport.model import ConsistencyModel, SampleRequest
from cmexport.sampling.alphas import plan_alphas, tcd_of
from cmexport.sampling.deterministic import euler_schedule, exact_schedule, plan_euler, plan_exact
from cmexport.sampling.editing import TASKS
from cmexport.sampling.evaluations import Evaluations
from cmexport.sampling.gamma import GAMMA, gamma_schedule, plan_gamma
from cmexport.sampling.heun import HEUN_STEPS, HeunSampler, heun_schedule, plan_heun
from cmexport.sampling.policy import plan_policy, policy_schedule
from cmexport.sampling.resolved import Method, Sampler
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import (
    Schedule,
    default_schedule,
    plan_sampling,
    schedule_for_steps,
    table_schedule,
)


def _consistency_levels(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    if steps is None:
        return default_schedule(model, task, editing_steps)
    if model.policy is not None:
        return policy_schedule(model.policy, model, steps)
    return schedule_for_steps(model, steps, task)


def _heun_levels(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    del task, editing_steps
    return heun_schedule(model, HEUN_STEPS if steps is None else steps)


def _tcd_levels(model: ConsistencyModel, steps: int | None, task: str, editing_steps: int) -> Schedule:
    del editing_steps
    return table_schedule(tcd_of(model), steps, task)


def _own_plan(model: ConsistencyModel, request: SampleRequest) -> Evaluations:
    if model.policy is not None:
        return plan_policy(model, request.sigmas)
    return plan_sampling(model, request.sigmas, request.eta)


def _tcd_plan(model: ConsistencyModel, request: SampleRequest) -> Evaluations:
    schedule = tcd_of(model)
    return plan_alphas(schedule, [schedule.timestep_of(sigma) for sigma in request.sigmas], request.eta)


def _gamma_plan(model: ConsistencyModel, request: SampleRequest) -> Evaluations:
    return plan_gamma(model, request.sigmas, GAMMA if request.gamma is None else request.gamma)


def _of_levels(
    plan: Callable[[ConsistencyModel, Sequence[float]], Evaluations],
) -> Callable[[ConsistencyModel, SampleRequest], Evaluations]:
    return lambda model, request: plan(model, request.sigmas)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "consistency": Method(_own_plan, _consistency_levels, SamplerGraph, tables=True),
        "heun": Method(
            _of_levels(plan_heun),
            _heun_levels,
            HeunSampler,
            ending=", then 0: Heun's method",
            edits=False,
            tuned=False,
            in_name=True,
        ),
        "exact": Method(
            _of_levels(plan_exact),
            exact_schedule,
            SamplerGraph,
            ending=", then sigma_min: exact jumps",
            edits=False,
            tuned=False,
            in_name=True,
        ),
        "gamma": Method(
            _gamma_plan,
            gamma_schedule,
            SamplerGraph,
            ending=", then sigma_min: gamma sampling",
            edits=False,
            tuned=False,
            in_name=True,
        ),
        "euler": Method(
            _of_levels(plan_euler),
            euler_schedule,
            SamplerGraph,
            ending=", then 0: Euler steps",
            edits=False,
            tuned=False,
            in_name=True,
        ),
        "tcd": Method(_tcd_plan, _tcd_levels, SamplerGraph, ending=": TCD", tuned=False, in_name=True, tables=True),
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


def schedule_of_strength(
    model: ConsistencyModel, sampler: str, steps: int | None, task: str, strength: float
) -> Schedule:
    """Levels of `--strength S`: how much of a picture to edit is painted anew.

    Raises:
        UsageError: a model or task that has none; see `AlphaSchedule.timesteps`.
    """
    if model.schedule is None:
        raise UsageError(f"--strength {strength:g}: only latent few-step models have it; --sigmas says where to start")
    if not TASKS[task].latents or task == "generate":
        raise UsageError(f"--strength {strength:g}: for --task stroke (image to image) and inpaint, not {task}")
    table = tcd_of(model) if sampler == "tcd" else model.schedule
    return table_schedule(table, steps, task, strength)


def resolve(model: ConsistencyModel, request: SampleRequest | None = None) -> Sampler:
    """Decide everything of a request, which is one step by default.

    Raises:
        UsageError: see `method_named` and `Sampler.of`.
    """
    wanted = request or SampleRequest()
    return Sampler.of(model, wanted, method_named(wanted.sampler, wanted.task))
