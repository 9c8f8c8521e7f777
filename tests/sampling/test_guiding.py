"""Guidance of models that are told no scale: two evaluations a step, against diffusers' own pipelines."""

from __future__ import annotations

import pytest
import torch
from support.latent_pipelines import PROMPTS, drawn_by_diffusers, tiny_pipeline

from cmexport.checkpoints import load_checkpoint
from cmexport.model import SampleRequest
from cmexport.networks.guided import GuidedNetwork
from cmexport.sampling.methods import resolve
from cmexport.sampling.prompting import tokens_of
from cmexport.sampling.stages import stages_of

STEPS, BATCH = 2, len(PROMPTS)


def sampler_for(model, **asked):
    sigmas = tuple(model.schedule.sigma_of(t) for t in model.schedule.timesteps(STEPS))
    return resolve(model, SampleRequest(sigmas=sigmas, batch=BATCH, **asked))


@pytest.fixture(scope="module", params=["tcd", "euler_ancestral"])
def folder(request):
    return tiny_pipeline(request.param)


@pytest.mark.parametrize("form", ["tokens", "prompts", "embeddings", "input"])
def test_pictures_are_those_of_diffusers(form, folder):
    model = load_checkpoint(folder)
    given = {
        "tokens": {"tokens": tokens_of(model, PROMPTS)},
        "prompts": {"prompt": torch.arange(BATCH)},
        "embeddings": {"embeddings": model.worded.of(tokens_of(model, PROMPTS))},
        "input": {"tokens": tokens_of(model, PROMPTS), "guidance": torch.full((BATCH,), 5.0)},
    }[form]
    asked = {
        "tokens": {"guidance": 5.0},
        "prompts": {"guidance": 5.0, "prompts": PROMPTS},
        "embeddings": {"guidance": 5.0, "condition": "embeddings"},
        "input": {"guidance_input": True},
    }[form]
    sampler = sampler_for(model, **asked)
    inputs = {**sampler.signature.examples(3), **given}
    assert set(inputs) == set(sampler.signature.names)
    with torch.no_grad():
        found = sampler.module()(**inputs)
        made = inputs
        for stage in stages_of(sampler, "staged"):
            made = {**made, stage.signature.output.name: stage.module()(**{n: made[n] for n in stage.signature.names})}
    noises = {name: inputs[name] for name in ("noise", "renoise")}
    eta = {"eta": model.schedule.eta} if model.schedule.kind == "tcd" else {}
    expected = drawn_by_diffusers(folder, PROMPTS, noises, guidance=5.0, steps=STEPS, **eta)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(made["image"], found, rtol=0, atol=1e-6)
    plain = drawn_by_diffusers(folder, PROMPTS, noises, guidance=1.0, steps=STEPS, **eta)
    assert (plain - expected).abs().max() > 0.02, "guidance changes nothing"


def test_what_is_not_asked_for_costs_nothing(folder):
    model = load_checkpoint(folder)
    assert next(s.value for s in model.settings if s.name == "guidance") == 1.0
    for asked in ({}, {"guidance": 1.0}):
        assert sampler_for(model, **asked).model.network is model.network
    lcm = load_checkpoint(tiny_pipeline())
    assert sampler_for(lcm, guidance=5.0).model.network is lcm.network


def test_guidance_multiplies_what_is_rounded(folder):
    model = load_checkpoint(folder)
    plain = sampler_for(model).amplification
    assert sampler_for(model, guidance=5.0).amplification == 9.0 * plain
    assert sampler_for(model, guidance_input=True).amplification == 29.0 * plain


def test_the_empty_prompt_is_evaluated_apart_from_the_others():
    class Named(torch.nn.Module):
        def forward(self, x, c_noise, embeddings):
            return x * 0 + embeddings.mean((1, 2)).reshape(-1, 1, 1, 1) * c_noise.to(x.dtype)

    guided = GuidedNetwork(Named(), {"embeddings": torch.full((1, 77, 8), 2.0)}, 3.0)
    embeddings = torch.tensor([5.0, 2.0]).reshape(2, 1, 1).expand(2, 77, 8)
    level = torch.tensor([1.0], dtype=torch.float64)
    found = guided(torch.zeros(2, 4, 2, 2), level, guidance=torch.tensor([3, 4]), embeddings=embeddings)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([2.0 + 3.0 * 3.0, 2.0]))
