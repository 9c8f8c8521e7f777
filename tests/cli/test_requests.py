"""Schedules as typed, for models whose networks know timesteps: what is evaluated, how it is said, what is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.networks import model_around, one_level, random_weights
from torch import nn
from torch.nn import functional

import cmexport
from cmexport.alphas import AlphaSchedule
from cmexport.cli.options import ScheduleText, step_counts, task_of
from cmexport.cli.requests import levels_asked, resolve_schedule
from cmexport.errors import UsageError
from cmexport.model import Codec
from cmexport.networks.adm_unet import AdmUnet
from cmexport.recorded import request_of
from cmexport.sampling.alphas import noise_range
from cmexport.sampling.methods import resolve


def latent(**fields):
    config = {"_class_name": "LCMScheduler", "prediction_type": "sample", **fields}
    schedule = AlphaSchedule.from_config(config, Path("scheduler_config.json"))
    network = random_weights(AdmUnet(one_level()), 3)
    return model_around(network, 8, 3, schedule=schedule, noise=noise_range(schedule), clamp=False)


@pytest.mark.parametrize(
    ("typed", "sampler", "timesteps", "said"),
    [
        ({}, "consistency", (999, 759, 499, 259), "4 of LCM's 50 steps: timesteps 999,759,499,259"),
        ({"steps": 1}, "consistency", (999,), "1 of LCM's 50 steps: timesteps 999"),
        ({"steps": 2}, "tcd", (999, 499), "2 of TCD's 50 steps: timesteps 999,499"),
        ({"timesteps": "981,3"}, "consistency", (981, 3), "--timesteps 981,3"),
        ({"timesteps": "800"}, "tcd", (800,), "--timesteps 800: TCD"),
        ({"sigmas": "14.6,1.613"}, "consistency", (999, 499), "--sigmas, the nearest timesteps 999,499"),
    ],
)
def test_levels_of_a_latent_model(typed, sampler, timesteps, said):
    model = latent()
    chosen = resolve_schedule(model, ScheduleText(**typed), sampler=sampler)
    assert chosen.sigmas == tuple(map(model.schedule.sigma_of, timesteps))
    assert chosen.origin == said


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"timesteps": "22,0", "levels": 40}, "its network's own"),
        ({"timesteps": "499,999"}, "must descend"),
        ({"timesteps": "1000,3"}, "0 to 999"),
        ({"timesteps": "a"}, "comma-separated numbers"),
        ({"sigmas": "80"}, "levels lie between"),
        ({"steps": 51}, "1 to 50 steps"),
    ],
)
def test_levels_that_it_does_not_have(typed, said):
    with pytest.raises(UsageError, match=said):
        resolve_schedule(latent(), ScheduleText(**typed))


def test_a_strength_starts_lower():
    model = latent()
    chosen = resolve_schedule(model, ScheduleText(steps=2, strength=0.5), task=task_of("generate", 0.5))
    assert chosen.origin == "2 of LCM's 50 steps: timesteps 499,259 at strength 0.5"
    # Of several tasks, drawing from noise is not meant.
    assert resolve_schedule(model, ScheduleText(steps=2, strength=0.5)).origin.endswith("timesteps 999,499")
    assert (task_of("inpaint", 0.5), task_of("generate", None)) == ("inpaint", "generate")
    for typed in ({"timesteps": "499"}, {"sigmas": "1.6"}):
        with pytest.raises(UsageError, match="both say where to start"):
            resolve_schedule(model, ScheduleText(strength=0.5, **typed), task="stroke")
    with pytest.raises(UsageError, match="only latent few-step models have it"):
        resolve_schedule(replace(model, schedule=None), ScheduleText(strength=0.5), task="stroke")


class Twice(nn.Module):
    """A decoder, or its encoder, of a factor of 2."""

    def __init__(self, up):
        super().__init__()
        self.up = up

    def forward(self, x):
        return functional.interpolate(x, scale_factor=2.0) * 0.5 if self.up else functional.avg_pool2d(x, 2) * 2.0


def test_both_tasks_of_latents_are_exported(tmp_path):
    model = latent()
    model = replace(model, codec=Codec(Twice(True), 3, 2, scale=0.8, encoder=Twice(False)))
    made = cmexport.export(model, task=["stroke", "inpaint"], steps=2, strength=0.5, seeds=8, out=tmp_path)
    for task, last in (("stroke", "image"), ("inpaint", "mask")):
        manifest = made.manifest.function(task)
        assert manifest.parity.passed
        shapes = {i.name: i.shape for i in manifest.signature.inputs}
        assert list(shapes)[-1] == last
        assert (shapes["noise"], shapes["image"]) == ((1, 3, 8, 8), (1, 3, 16, 16))
        assert [e.c_noise for e in manifest.sampling.evaluations] == [499, 259]
        assert resolve(model, request_of(manifest)).plan.sigmas == manifest.sampling.sigmas


@pytest.mark.parametrize(
    ("fields", "asked"),
    [({"clip_sample": True, "clip_sample_range": 0.3}, {"steps": 2}), ({}, {"steps": 3, "sampler": "tcd", "eta": 0.5})],
    ids=["clipped", "tcd"],
)
def test_a_manifest_brings_the_sampler_back(fields, asked, tmp_path):
    model = latent(**fields)
    artifact = cmexport.export(model, seeds=8, out=tmp_path, **asked)
    manifest = artifact.manifest
    assert manifest.parity.passed
    sampler = resolve(model, request_of(manifest))
    assert [e.c_noise for e in manifest.sampling.evaluations] == [e.c_noise for e in sampler.plan.evaluations]
    assert [(e.c_skip, e.mix) for e in manifest.sampling.evaluations] == [
        (e.c_skip, e.mix) for e in sampler.plan.evaluations
    ]
    assert (manifest.sampling.clip, manifest.sampling.eta) == (fields.get("clip_sample_range"), asked.get("eta"))


def test_several_numbers_of_steps_are_read_and_asked_for_together():
    assert step_counts(None) == (None,)
    assert step_counts("4") == (4,)
    assert step_counts("1, 4") == (1, 4)
    for text in ("", "4,", "-1", "1.5", "many", "1,,4", "9" * 40):
        with pytest.raises(UsageError, match="a whole number is expected"):
            step_counts(text)
    levels = levels_asked(*(ScheduleText(steps) for steps in (1, 2)), tasks="generate")(latent())
    assert [len(found) for found in levels] == [1, 2]
