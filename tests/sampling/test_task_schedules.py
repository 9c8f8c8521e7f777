"""Schedules by number of steps, by release and by task."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, Space
from cmexport.sampling.schedules import default_schedule, plan_sampling, schedule_for_steps, tuned_two_steps


def noise(levels):
    return NoiseRange(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, levels=levels)


def model(name="any.pt", levels=40):
    return ConsistencyModel(
        network=nn.Identity(),
        architecture={},
        space=Space(3, 8, 8),
        preconditioning="cm",
        c_noise="250ln",
        noise=noise(levels),
        conditions=(),
        renoise="cm",
        clamp=True,
        source=CheckpointSource(Path(name), "toy", "0" * 64, 1),
    )


# Mid sigmas computed from OpenAI's `ts` in scripts/launch.sh with their own `karras_levels`.
PUBLISHED = [
    ("cd_imagenet64_l2", 40, 1.382368),
    ("cd_imagenet64_lpips", 40, 1.382368),
    ("cd_bedroom256_lpips", 40, 4.365562),
    ("cd_bedroom256_l2", 40, 3.519699),
    ("ct_imagenet64", 201, 1.912844),
    ("ct_bedroom256", 151, 3.991219),
    ("ct_cat256", 151, 5.248503),
]


@pytest.mark.parametrize(("release", "levels", "middle"), PUBLISHED)
@pytest.mark.parametrize("form", ["{}.pt", "diffusers-{}", "{}", "{}.safetensors"])
def test_released_checkpoints_have_their_tuned_two_steps(release, levels, middle, form):
    schedule = schedule_for_steps(model(form.format(release), levels), 2)
    assert schedule.sigmas == (80.0, pytest.approx(middle, abs=1e-6))
    assert release in schedule.origin


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("cd_imagenet64_l2.pt", 18),
        ("my_cd_imagenet64_l2x.pt", 40),
        ("cd_imagenet64.pt", 40),
        ("ct_imagenet64_lpips.pt", 201),
    ],
)
def test_other_names_and_other_levels_are_spaced_evenly(name, levels):
    assert tuned_two_steps(name, noise(levels)) is None
    schedule = schedule_for_steps(model(name, levels), 2)
    assert "diffusers" in schedule.origin
    if levels == 40:
        assert schedule.sigmas == (80.0, pytest.approx(2.24044, abs=1e-5))


def test_only_generating_in_two_steps_is_tuned():
    subject = model("cd_imagenet64_l2.pt")
    assert len(schedule_for_steps(subject, 3).sigmas) == 3
    assert "tuned" not in schedule_for_steps(subject, 2, "inpaint").origin


@pytest.mark.parametrize("steps", [1, 2, 4, 13, 17, 18, 39, 200])
@pytest.mark.parametrize("task", ["generate", "inpaint", "stroke"])
def test_any_number_of_steps_gives_a_schedule_that_can_be_sampled(steps, task):
    subject = model(levels=18)
    schedule = schedule_for_steps(subject, steps, task)
    assert len(schedule.sigmas) == steps
    assert plan_sampling(subject, schedule.sigmas).steps == steps


def test_39_editing_steps_are_the_papers_levels_whatever_n_is():
    expected = [(80 ** (1 / 7) + i / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(39)]
    for levels in (18, 40):
        assert schedule_for_steps(model(levels=levels), 39, "inpaint").sigmas == pytest.approx(expected)


def test_stroke_starts_where_the_paper_does():
    for levels in (18, 40):
        assert default_schedule(model(levels=levels), "stroke").sigmas == pytest.approx((5.38, 2.24), abs=5e-3)
    assert schedule_for_steps(model(), 1, "stroke").sigmas == pytest.approx((5.38,), abs=5e-3)


def test_defaults():
    assert default_schedule(model(), "generate").sigmas == ()
    assert default_schedule(model(), "inpaint").sigmas[0] == 80.0
    with pytest.raises(UsageError, match="--sigmas"):
        default_schedule(model(), "denoise")


@pytest.mark.parametrize("steps", [0, -1, 201])
@pytest.mark.parametrize("task", ["generate", "inpaint", "stroke"])
def test_impossible_numbers_of_steps_are_refused(steps, task):
    with pytest.raises(UsageError, match=f"--steps {steps}"):
        schedule_for_steps(model(), steps, task)
