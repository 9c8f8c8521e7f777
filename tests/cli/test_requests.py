"""Schedules as typed, for models whose networks know timesteps: what is evaluated, how it is said, what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.networks import model_around, one_level, random_weights

import cmexport
from cmexport.alphas import AlphaSchedule
from cmexport.cli.options import ScheduleText
from cmexport.cli.requests import resolve_schedule
from cmexport.errors import UsageError
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
