"""Plans of LCM, TCD and Euler's steps: diffusers' schedulers step the same networks in float64."""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from torch import nn

from cmexport.alphas import KINDS, AlphaSchedule
from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, ConsistencyModel, SampleRequest, Space
from cmexport.sampling.alphas import noise_range, plan_alphas
from cmexport.sampling.methods import resolve
from cmexport.sampling.schedules import default_schedule, plan_sampling, schedule_for_steps

SHAPE = (2, 4, 4, 4)
MODULES = {
    "lcm": "scheduling_lcm",
    "tcd": "scheduling_tcd",
    "euler": "scheduling_euler_discrete",
    "euler_ancestral": "scheduling_euler_ancestral_discrete",
}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
NAMES = {kind: name for name, kind in KINDS.items()}


class Linear(nn.Module):
    def forward(self, x, c_noise):
        return (0.3 + 0.001 * c_noise.to(x.dtype)) * x + 0.1


class Bent(nn.Module):
    def forward(self, x, c_noise):
        return torch.tanh(1.3 * x.flip(-1) + torch.cos(c_noise / 100.0).to(x.dtype))


class Doubled:
    """A module in which float32 means float64: diffusers' Euler schedulers cast to float32 inside."""

    float32 = None

    def __init__(self, module, float64):
        self.module, self.float32 = module, float64

    def __getattr__(self, name):
        return getattr(self.module, name)


@pytest.fixture
def stepped(monkeypatch):
    """The picture that diffusers' scheduler makes in float64 of unit noise and later noises."""
    drawn = []
    for file in MODULES.values():
        module = importlib.import_module(f"diffusers.schedulers.{file}")
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: drawn.pop(0))
        if "euler" in file:
            monkeypatch.setattr(module, "torch", Doubled(module.torch, torch.float64))
            monkeypatch.setattr(module, "np", Doubled(module.np, module.np.float64))

    def run(config, network, noise, renoise, times, *, given=False, **options):
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        # Those that diffusers computes in float32; tests/test_alphas.py compares them.
        table = AlphaSchedule.from_config(config, Path("c")).alphas_cumprod
        scheduler.alphas_cumprod = torch.tensor(table, dtype=torch.float64)
        scheduler.set_timesteps(**({"timesteps": list(times)} if given else {"num_inference_steps": len(times)}))
        assert tuple(int(t) for t in scheduler.timesteps) == tuple(times)
        drawn[:] = [*renoise, torch.zeros_like(noise)]
        x, lcm = scheduler.init_noise_sigma * noise, "Euler" not in config["_class_name"]
        for t in scheduler.timesteps:
            answer = network(scheduler.scale_model_input(x, t), t.double()[None])
            x = scheduler.step(answer, int(t) if lcm else t, x, **options).prev_sample
        assert x.dtype is torch.float64
        return x

    return run


def config_of(kind, **fields):
    spacing = {} if kind in ("lcm", "tcd") else {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}
    return {"_class_name": NAMES[kind], **spacing, **fields}


def model_of(schedule, network):
    return ConsistencyModel(
        network=network,
        architecture={},
        space=Space(4, 4, 4),
        preconditioning="table",
        c_noise="timestep",
        noise=noise_range(schedule),
        conditions=(),
        renoise="table",
        clamp=False,
        source=CheckpointSource(Path("toy"), "toy", "0" * 64, 1),
        schedule=schedule,
    )


def normal(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compare(stepped, config, network, steps, *, request=None, times=None, **options):
    schedule = AlphaSchedule.from_config(config, Path("scheduler_config.json"))
    request = request or SampleRequest()
    times, given = times or schedule.timesteps(steps), times is not None
    request = replace(request, sigmas=tuple(map(schedule.sigma_of, times)), batch=SHAPE[0])
    sampler = resolve(model_of(schedule, network), request)
    noise, renoise = normal(*SHAPE, seed=steps), normal(len(times) - 1, *SHAPE, seed=99)
    inputs = {"noise": noise, **({"renoise": renoise} if sampler.plan.renoised else {})}
    assert set(inputs) == {i.name for i in sampler.signature.inputs}
    with torch.no_grad():
        expected = stepped(config, network, noise, renoise, times, given=given, **options)
        exact = sampler.module()(**inputs)
        single = sampler.module()(**{name: value.float() for name, value in inputs.items()})
    torch.testing.assert_close(exact, expected, rtol=1e-10, atol=1e-10)
    # Epsilon at t = 999 is multiplied by 14.6.
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    return sampler


@pytest.mark.parametrize("network", [Linear(), Bent()], ids=["linear", "bent"])
@pytest.mark.parametrize(
    ("kind", "prediction"),
    # diffusers has no ancestral Euler of "sample".
    [(k, p) for k in MODULES for p in PREDICTIONS if (k, p) != ("euler_ancestral", "sample")],
)
def test_one_to_eight_steps_are_diffusers(stepped, kind, prediction, network):
    for steps, original, to_one in itertools.product(range(1, 9), (20, 50, 100), (True, False)):
        if "euler" in kind and (original, to_one) != (50, True):
            continue
        more = {"original_inference_steps": original, "set_alpha_to_one": to_one} if "euler" not in kind else {}
        sampler = compare(stepped, config_of(kind, prediction_type=prediction, **more), network, steps)
        assert [e.c_noise for e in sampler.plan.evaluations] == list(sampler.model.schedule.timesteps(steps))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("limit", [1.0, 0.3])
def test_clipped_pictures(stepped, prediction, limit):
    config = config_of("lcm", prediction_type=prediction, clip_sample=True, clip_sample_range=limit)
    # t = 0 and small scaling: the mix with the sample counts.
    for times, scaling in [((999, 499), 10.0), ((900, 20, 1, 0), 0.01), ((0,), 10.0)]:
        compare(stepped, {**config, "timestep_scaling": scaling}, Bent(), 1, times=times)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_eta_of_tcd_on_every_kind_of_model(stepped, eta):
    for steps in (1, 2, 3, 4, 7):
        sampler = compare(stepped, config_of("tcd"), Bent(), steps, request=SampleRequest(eta=eta), eta=eta)
        assert sampler.plan.renoises == (eta > 0.0)
        for kind in ("lcm", "euler"):
            schedule = replace(sampler.model.schedule, kind=kind, clip=0.5)
            asked = replace(sampler.request, sampler="tcd")
            assert resolve(model_of(schedule, Bent()), asked).plan == sampler.plan


@pytest.mark.parametrize("kind", ["lcm", "tcd", "euler"])
def test_timesteps_of_ones_own(stepped, kind):
    for times in [(800,), (999, 3), (981, 700, 333, 21, 0)]:
        compare(stepped, config_of(kind), Bent(), 1, times=times)


@pytest.mark.parametrize("times", [(800,), (800, 600), (800, 600, 400, 200)])
@pytest.mark.parametrize("kind", ["lcm", "tcd"])
def test_starts_below_the_last_timestep(stepped, kind, times):
    """Hyper-SD's one step and its like: off the grid, with all of TCD's noise."""
    more = {"request": SampleRequest(eta=1.0), "eta": 1.0} if kind == "tcd" else {}
    compare(stepped, config_of(kind), Bent(), 1, times=times, **more)


def test_one_step_of_turbo_is_the_formula_of_lcm():
    """Of sqrt(1 - a) z, 0.99767 z, in place of z: what SD-Turbo and an LCM's first x0 have in common."""
    schedule = AlphaSchedule.from_config(config_of("euler_ancestral", beta_start=0.00085, beta_end=0.012), Path("c"))
    network, noise = Bent(), normal(*SHAPE, seed=3)
    found = resolve(model_of(schedule, network), SampleRequest((schedule.sigma_of(999),), batch=2)).module()(
        noise=noise
    )
    alpha = schedule.alphas_cumprod[999]
    x = math.sqrt(1 - alpha) * noise
    assert math.sqrt(1 - alpha) == pytest.approx(0.99767, abs=5e-6)
    expected = (x - math.sqrt(1 - alpha) * network(x, torch.tensor([999.0], dtype=torch.float64))) / math.sqrt(alpha)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_levels_are_sigmas_and_the_start_is_unit_noise_or_sigma():
    lcm, euler = (AlphaSchedule.from_config(config_of(kind), Path("c")) for kind in ("lcm", "euler"))
    first = plan_alphas(lcm, (999,)).evaluations[0]
    assert first.sigma == pytest.approx(14.6146, abs=1e-4)
    assert first.noise_std * first.c_in == pytest.approx(1.0, abs=1e-15)
    assert plan_alphas(euler, (999,)).evaluations[0].noise_std == euler.sigma_of(999)
    plan = plan_sampling(model_of(lcm, Bent()))
    assert [e.c_noise for e in plan.evaluations] == [999.0, 759.0, 499.0, 259.0]
    model = model_of(lcm, Bent())
    assert default_schedule(model, "generate").sigmas == plan.sigmas
    chosen = schedule_for_steps(model, 2)
    assert chosen.origin == "2 of LCM's 50 steps: timesteps 999,499"
    # Rounded, as people type them: the nearest timesteps.
    assert plan_sampling(model, (14.61, 1.613)) == plan_sampling(model, chosen.sigmas)


@pytest.mark.parametrize("sampler", ["heun", "exact", "euler"])
def test_samplers_of_other_levels_are_refused(sampler):
    model = model_of(AlphaSchedule.from_config(config_of("lcm"), Path("c")), Bent())
    with pytest.raises(UsageError, match=rf"--sampler {sampler}: this model's levels are LCM's timesteps"):
        resolve(model, SampleRequest(sigmas=(14.0, 1.0), sampler=sampler))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (SampleRequest(eta=0.5), "only --sampler tcd has one; this model's own is LCM"),
        (SampleRequest(eta=1.5, sampler="tcd"), "between 0 and 1"),
        (SampleRequest(eta=math.nan, sampler="tcd"), "between 0 and 1"),
        (SampleRequest(sigmas=(80.0,)), "between"),
        (SampleRequest(sigmas=(1.0, 1.0001)), "must descend"),
    ],
)
def test_requests_that_contradict_the_scheduler(request_, said):
    with pytest.raises(UsageError, match=said):
        resolve(model_of(AlphaSchedule.from_config(config_of("lcm"), Path("c")), Bent()), request_)


def test_models_without_a_table_have_no_tcd():
    model = replace(
        model_of(AlphaSchedule.from_config(config_of("lcm"), Path("c")), Bent()), schedule=None, preconditioning="edm"
    )
    with pytest.raises(UsageError, match="only for latent few-step models"):
        resolve(model, SampleRequest(sampler="tcd"))
    with pytest.raises(UsageError, match=r"--eta 0\.3"):
        resolve(model, SampleRequest(eta=0.3))
