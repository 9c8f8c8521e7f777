"""Heun's method against algorithm 1 of EDM's paper written out, and against diffusers' scheduler."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import NOISE, model_around
from torch import nn

from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.evaluations import levels_of
from cmexport.sampling.heun import HeunSampler, heun_schedule, plan_heun
from cmexport.sampling.methods import resolve
from cmexport.sampling.preconditioning import PRECONDITIONINGS, scalings_at

Z = torch.randn((2, 3, 4, 4), generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Toy(nn.Module):
    """A network that notices everything it is given."""

    def forward(self, x, c_noise, label=None):
        shift = 0.0 if label is None else 0.1 * label.double()[:, None, None, None]
        return torch.sin(2.0 * x + 0.003 * c_noise.reshape(-1, 1, 1, 1) + shift) + 0.3 * x.flip(1)


def model(precond="edm", classes=None, **fields):
    return model_around(Toy(), 4, classes, preconditioning=precond, **{"clamp": False, **fields})


def picture(made, x, sigma, label):
    scalings = scalings_at(made.preconditioning, sigma, made.noise)
    c_noise = torch.tensor([250.0 * math.log(sigma)], dtype=torch.float64)
    answer = made.network(scalings.c_in * x, c_noise, *(() if label is None else (label,)))
    return scalings.c_skip * x + scalings.c_out * answer


def algorithm_1(made, sigmas, noise, label=None):
    """Karras et al. 2022, algorithm 1, with sigma(t) = t and s(t) = 1, line by line."""
    t = [*sigmas, 0.0]
    x = t[0] * noise
    for i in range(len(t) - 1):
        d = (x - picture(made, x, t[i], label)) / t[i]
        following = x + (t[i + 1] - t[i]) * d
        if t[i + 1] != 0.0:
            d_2 = (following - picture(made, following, t[i + 1], label)) / t[i + 1]
            following = x + (t[i + 1] - t[i]) * (0.5 * d + 0.5 * d_2)
        x = following
    return x


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize("precond", sorted(PRECONDITIONINGS))
def test_it_is_algorithm_1(precond, classes):
    made, label = model(precond, classes), None if classes is None else torch.tensor([1, 7])
    plan = plan_heun(made)
    got = HeunSampler(resolve(made, SampleRequest(sampler="heun")))(Z, **({} if label is None else {"label": label}))
    expected = algorithm_1(made, plan.levels, Z, label)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-11
    assert len(plan.levels) == 18
    assert plan.steps == 35


@given(sigmas=st.lists(st.floats(0.002, 80.0), min_size=2, max_size=7, unique=True))
@settings(max_examples=40, deadline=None)
def test_any_levels(sigmas):
    sigmas, made = sorted(sigmas, reverse=True), model()
    plan = plan_heun(made, sigmas)
    expected = algorithm_1(made, sigmas, Z)
    got = HeunSampler(resolve(made, SampleRequest(sigmas=sigmas, sampler="heun")))(Z)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-10
    assert list(levels_of(plan.sigmas)) == sigmas
    assert [plan.levels[i] for i in plan.level_indices] == list(plan.sigmas)


def test_it_is_diffusers_scheduler():
    diffusers = pytest.importorskip("diffusers")
    made = model()
    plan = plan_heun(made, heun_schedule(made, 6).sigmas)
    scheduler = diffusers.HeunDiscreteScheduler()
    scheduler.set_timesteps(6)
    # The levels are ours: its own come from a table of betas.
    scheduler.sigmas = torch.tensor([*plan.sigmas, 0.0], dtype=torch.float64)
    x = plan.sigmas[0] * Z
    for sigma, timestep in zip(plan.sigmas, scheduler.timesteps, strict=True):
        x = scheduler.step((x - picture(made, x, sigma, None)) / sigma, timestep, x).prev_sample
    got = HeunSampler(resolve(made, SampleRequest(sigmas=heun_schedule(made, 6).sigmas, sampler="heun")))(Z)
    assert float((got - x).abs().max() / x.abs().max()) < 1e-11


def test_more_steps_come_closer_to_the_curve():
    made = model()
    ends = [algorithm_1(made, heun_schedule(made, n).sigmas, Z) for n in (20, 40, 200)]
    far, near = ((x - ends[2]).abs().mean() for x in ends[:2])
    # Of second order: half the step, a quarter of the error.
    assert 2.5 < far / near < 8.0


def test_labels_are_baked_and_pictures_finished():
    made = model(classes=10, clamp=True)
    free = HeunSampler(resolve(made, SampleRequest(sigmas=(80.0, 3.0, 0.1), sampler="heun")))(
        Z, label=torch.tensor([4, 4])
    )
    baked = HeunSampler(resolve(made, SampleRequest(sigmas=(80.0, 3.0, 0.1), sampler="heun", label=4, output="uint8")))(
        Z
    )
    assert float(free.abs().max()) == 1.0
    assert torch.equal(baked, ((free + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))


def test_the_default_levels_are_edms():
    levels = heun_schedule(model(), 18).sigmas
    ramp = [(80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)]
    assert levels == pytest.approx(ramp, rel=1e-12)


@pytest.mark.parametrize("sigmas", [(80.0,), (1.0, 80.0), (80.0, 80.0), (81.0, 1.0), (80.0, 0.001), (80.0, math.nan)])
def test_impossible_levels(sigmas):
    with pytest.raises(UsageError, match="sigmas"):
        plan_heun(model(), sigmas)


@pytest.mark.parametrize("steps", [0, 1, 201])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(UsageError, match=f"--steps {steps}"):
        heun_schedule(model(), steps)


def test_a_range_down_to_zero_is_refused():
    from dataclasses import replace

    with pytest.raises(UsageError, match="closing 0"):
        plan_heun(model(noise=replace(NOISE, sigma_min=0.0)))
