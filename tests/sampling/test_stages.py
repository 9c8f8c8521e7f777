"""A sampler taken apart gives, part after part, what it gives as a whole."""

from __future__ import annotations

import pytest
import torch
from support.latent_pipelines import pipeline
from support.networks import model_around

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.stages import stages_of
from cmexport.signature import Signature


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lcm")
    pipeline(folder)
    return load_checkpoint(folder)


def sampler_for(model, steps=2, **asked):
    sigmas = tuple(model.schedule.sigma_of(t) for t in model.schedule.timesteps(steps))
    return resolve(model, SampleRequest(sigmas=sigmas, **asked))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["encode", "paint", "decode"]),
        ({"output": "uint8", "batch": 2}, ["encode", "paint", "decode"]),
        ({"guidance_input": True}, ["encode", "paint", "decode"]),
        ({"condition": "embeddings"}, ["paint", "decode"]),
        ({"prompts": ("crying cat", "green car")}, ["paint", "decode"]),
        ({"prompt": "crying cat"}, ["paint", "decode"]),
    ],
)
def test_parts_in_turn_are_the_whole(model, asked, names):
    sampler = sampler_for(model, **asked)
    stages = stages_of(sampler, "staged")
    assert [stage.name for stage in stages] == names
    chained = Signature.chained([stage.signature for stage in stages])
    # What the app feeds is the same, whatever the packaging; the order follows the parts.
    assert {i.name: i.shape for i in chained.inputs} == {i.name: i.shape for i in sampler.signature.inputs}
    assert chained.output == sampler.signature.output
    given = sampler.signature.examples()
    made = dict(given)
    with torch.no_grad():
        for stage in stages:
            made[stage.signature.output.name] = stage.module()(**{n: made[n] for n in stage.signature.names})
        whole = sampler.module()(**given)
    torch.testing.assert_close(made["image"], whole, rtol=0, atol=0)


def test_a_part_draws_what_the_part_before_would_give(model):
    encode, paint, decode = stages_of(sampler_for(model, 1), "staged")
    with torch.no_grad():
        embeddings = encode.module()(**encode.signature.examples(3))
        torch.testing.assert_close(paint.signature.examples(3)["embeddings"], embeddings, rtol=0, atol=0)
        latent = paint.module()(**paint.signature.examples(2))
    torch.testing.assert_close(decode.signature.examples(2)["latent"], latent, rtol=0, atol=0)


@pytest.mark.parametrize("asked", [{}, {"condition": "embeddings"}])
def test_paint_draws_every_prompt_that_it_is_calibrated_with(model, asked):
    paint = stages_of(sampler_for(model, 1, **asked), "staged")[-2]
    sentences = model.worded.input.law.sentences
    drawn = {paint.signature.examples(i)["embeddings"].numpy().tobytes() for i in range(len(sentences))}
    assert len(drawn) == len(set(sentences)) > 16


def test_what_has_no_parts_is_refused():
    sampler = resolve(model_around(torch.nn.Identity(), 8, 3))
    assert [stage.name for stage in stages_of(sampler, "one")] == ["generate"]
    with pytest.raises(UsageError, match="no parts"):
        stages_of(sampler, "staged")
    with pytest.raises(UsageError, match="known are one, staged"):
        stages_of(sampler, "split")
