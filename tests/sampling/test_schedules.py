"""Karras levels and sampling plans against OpenAI's published schedules and diffusers' scheduler."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, Space
from cmexport.sampling.schedules import (
    RENOISE_RULES,
    karras_levels,
    plan_sampling,
    sigmas_at,
    sigmas_for_steps,
)

OPENAI = NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=40)


def model(**fields):
    defaults = {
        "network": nn.Identity(),
        "architecture": {},
        "space": Space(3, 8, 8),
        "preconditioning": "cm",
        "c_noise": "250ln",
        "noise": OPENAI,
        "conditions": (),
        "renoise": "cm",
        "clamp": True,
        "source": CheckpointSource(Path("toy.pt"), "toy", "0" * 64, 1),
    }
    return ConsistencyModel(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("checkpoint", "levels", "index", "sigma", "c_noise"),
    [
        ("cd_imagenet64", 40, 22, 1.382368, 80.9495),
        ("cd_bedroom256_lpips", 40, 17, 4.365562, 368.4367),
        ("cd_bedroom256_l2", 40, 18, 3.519699, 314.5939),
        ("ct_imagenet64", 201, 106, 1.912844, 162.1477),
        ("ct_bedroom256", 151, 67, 3.991219, 346.0242),
        ("ct_cat256", 151, 62, 5.248503, 414.4857),
    ],
)
def test_the_published_two_step_schedules(checkpoint, levels, index, sigma, c_noise):
    """OpenAI's scripts/launch.sh: ts=0,22,39 and so on; the numbers were computed with its code."""
    assert karras_levels(OPENAI, levels)[index] == pytest.approx(sigma, abs=5e-7)
    plan = plan_sampling(model(), (80.0, karras_levels(OPENAI, levels)[index]))
    assert plan.evaluations[1].c_noise == pytest.approx(c_noise, abs=1e-4)


noise_ranges = st.builds(
    NoiseRange,
    sigma_min=st.floats(1e-4, 0.5),
    sigma_max=st.floats(1.0, 1000.0),
    sigma_data=st.just(0.5),
    rho=st.floats(1.0, 12.0),
    levels=st.just(40),
)


@given(noise=noise_ranges, levels=st.integers(2, 300))
def test_levels_descend_strictly_between_exact_ends(noise, levels):
    table = karras_levels(noise, levels)
    assert len(table) == levels
    assert (table[0], table[-1]) == (noise.sigma_max, noise.sigma_min)
    assert all(a > b for a, b in itertools.pairwise(table))


@given(noise=noise_ranges, levels=st.integers(3, 60))
def test_levels_are_evenly_spaced_in_the_rho_root(noise, levels):
    roots = np.asarray(karras_levels(noise, levels)) ** (1 / noise.rho)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / (levels - 1), rtol=1e-6)


def test_one_level_is_no_schedule():
    with pytest.raises(UsageError, match="at least 2 levels"):
        karras_levels(OPENAI, 1)


@pytest.mark.parametrize("timesteps", [[22, 0], [17, 0], [38, 22, 5, 0], [0]])
def test_timesteps_mean_what_they_mean_in_diffusers(timesteps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40)
    scheduler.set_timesteps(timesteps=timesteps)
    evaluated = scheduler.sigmas.numpy()[:-1]
    np.testing.assert_allclose(sigmas_at(OPENAI, timesteps, 40), evaluated, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 39])
def test_steps_mean_what_they_mean_in_diffusers(steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40)
    scheduler.set_timesteps(num_inference_steps=steps)
    np.testing.assert_allclose(sigmas_for_steps(OPENAI, steps), scheduler.sigmas.numpy()[:-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("timesteps", "reason"),
    [
        ((0, 22), "must descend"),
        ((22, 22, 0), "must descend"),
        ((22, 5), "must end in 0"),
        ((), "must end in 0"),
        ((39, 0), "lie below 39"),
        ((22, 0, -1), "must end in 0"),
    ],
)
def test_impossible_timesteps_are_refused(timesteps, reason):
    with pytest.raises(UsageError, match=reason):
        sigmas_at(OPENAI, timesteps, 40)


@pytest.mark.parametrize("steps", [0, -1, 40])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(UsageError, match="between 1 and 39"):
        sigmas_for_steps(OPENAI, steps)


def test_no_levels_means_one_step_from_the_top():
    plan = plan_sampling(model())
    (only,) = plan.evaluations
    assert (plan.steps, plan.sigmas, only.noise_std) == (1, (80.0,), 80.0)
    assert only.c_skip == pytest.approx(3.906293e-05, rel=2e-7)


@pytest.mark.parametrize(("rule", "expected"), [("cm", math.sqrt(1.5**2 - 0.002**2)), ("ect", 1.5)])
def test_renoise_rules(rule, expected):
    plan = plan_sampling(model(renoise=rule), (80.0, 1.5))
    assert plan.evaluations[0].noise_std == 80.0
    assert plan.evaluations[1].noise_std == pytest.approx(expected, rel=1e-15)
    assert plan.renoise == rule


def test_the_closing_level_adds_no_noise():
    assert RENOISE_RULES["cm"](OPENAI.sigma_min, OPENAI) == 0.0


@pytest.mark.parametrize(
    ("sigmas", "reason"),
    [
        ((1.38, 80.0), "must descend strictly"),
        ((80.0, 80.0), "must descend strictly"),
        ((81.0,), "at most at sigma_max 80"),
        ((80.0, 0.002), "above sigma_min 0.002"),
        ((80.0, -1.0), "above sigma_min"),
        ((math.nan,), "above sigma_min"),
        ((math.inf,), "at most at sigma_max"),
    ],
)
def test_impossible_levels_are_refused(sigmas, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        plan_sampling(model(), sigmas)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3


def test_unknown_rules_are_refused():
    with pytest.raises(UsageError, match="unknown renoise rule 'lcm'; known: cm, ect"):
        plan_sampling(model(renoise="lcm"))
    with pytest.raises(UsageError, match="unknown precond 'trig'"):
        plan_sampling(model(preconditioning="trig"))
    with pytest.raises(UsageError, match="unknown c_noise 'ln'"):
        plan_sampling(model(c_noise="ln"))
