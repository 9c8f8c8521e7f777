"""Samplers by name, and a request with everything decided."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.networks import model_around, random_weights, tiny_config

from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.sampling.heun import HeunSampler
from cmexport.sampling.methods import METHODS, method_named, resolve
from cmexport.sampling.samplers import SamplerGraph


@pytest.fixture(scope="module")
def model():
    return model_around(random_weights(AdmUnet(tiny_config(3)), 0), 8, 3)


def test_everything_is_decided_once(model):
    one = resolve(model)
    assert (one.plan.steps, one.plan.looped, one.signature.names) == (1, False, ("noise", "label"))
    several = resolve(model, SampleRequest(sigmas=(80.0, 5.0, 1.0), batch=2))
    assert several.signature.names == ("noise", "renoise", "label")
    assert (several.plan.renoised, several.work) == (2, 3 * model.parameters)
    assert type(several.module()) is SamplerGraph
    assert not several.module().training


def test_a_loop_takes_no_later_noise_and_knows_its_levels(model):
    loop = resolve(model, SampleRequest(sigmas=(80.0, 5.0, 1.0), sampler="heun"))
    assert (loop.plan.looped, loop.plan.renoised, loop.plan.steps) == (True, 0, 5)
    assert loop.plan.levels == (80.0, 5.0, 1.0)
    assert loop.plan.level_indices == (0, 1, 1, 2, 2)
    assert loop.signature.names == ("noise", "label")
    assert type(loop.module()) is HeunSampler


def test_only_another_method_than_the_models_own_is_in_the_name(model):
    assert resolve(model).name == model.source.name
    assert resolve(model, SampleRequest(sigmas=(80.0, 1.0), sampler="heun")).name == f"{model.source.name}-heun2"


def test_another_batch_and_the_ends_of_a_long_sampler(model):
    long = resolve(model, SampleRequest(sigmas=(80.0, 9.0, 3.0, 1.0)))
    wide = long.with_batch(4)
    assert (wide.signature.batch, wide.request.batch, wide.plan) == (4, 4, long.plan)
    assert wide.signature == resolve(model, replace(long.request, batch=4)).signature
    ends = long.with_ends()
    assert ends.plan.sigmas == (80.0, 1.0)
    assert ends.signature == resolve(model, SampleRequest(sigmas=(80.0, 1.0))).signature


def test_an_unknown_name_or_a_task_that_a_method_cannot_do_is_refused(model):
    assert method_named("consistency", "inpaint") is METHODS["consistency"]
    with pytest.raises(UsageError, match="--sampler dpm: known are consistency, heun, exact, gamma, euler"):
        resolve(model, SampleRequest(sampler="dpm"))
    with pytest.raises(UsageError, match="it only generates; editing takes --sampler consistency"):
        resolve(model, SampleRequest(sampler="heun", task="inpaint"))
