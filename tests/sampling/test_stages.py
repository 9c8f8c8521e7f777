"""A sampler taken apart gives, part after part, what it gives as a whole."""

from __future__ import annotations

import pytest
import torch
from support.latent_pipelines import pipeline, tiny_xl_pipeline
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


@pytest.fixture(scope="module")
def xl_model():
    return load_checkpoint(tiny_xl_pipeline("lcm", 32))


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
@pytest.mark.parametrize("kind", ["model", "xl_model"])
def test_parts_in_turn_are_the_whole(kind, asked, names, request):
    model = request.getfixturevalue(kind)
    if kind == "xl_model" and "encode" in names:
        names = ["encode", "pool", "paint", "decode"]
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


def test_pooling_goes_on_where_encoding_stopped(xl_model):
    """No layer of SDXL's second text encoder runs twice, or has its weights in two parts."""
    encode, pool, paint, _ = stages_of(sampler_for(xl_model, 1), "staged")
    assert [i.name for i in pool.signature.inputs] == ["tokens", "embeddings"]
    assert [i.name for i in paint.signature.inputs] == ["noise", "embeddings", "pooled"]
    first, second = ({p.data_ptr() for p in stage.module().parameters()} for stage in (encode, pool))
    assert first
    assert second
    assert not first & second
    assert sum(xl_model.parts[name] for name in ("text_encoder", "text_encoder_2")) == sum(
        p.numel() for stage in (encode, pool) for p in stage.module().parameters()
    )
    drawn = pool.signature.examples(3)
    torch.testing.assert_close(encode.module()(tokens=drawn["tokens"]), drawn["embeddings"], rtol=0, atol=1e-6)
    torch.testing.assert_close(paint.signature.examples(3)["pooled"], pool.module()(**drawn), rtol=0, atol=1e-6)


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
