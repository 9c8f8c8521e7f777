"""Forms of a prompt: what they take, and that each paints what tokens paint."""

from __future__ import annotations

import pytest
import torch
from support.latent_pipelines import pipeline
from support.networks import model_around

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve

PROMPTS = ("green car", "crying cat", "red heart")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lcm")
    pipeline(folder)
    return load_checkpoint(folder)


def paint(model, request, **given):
    sampler = resolve(model, request)
    inputs = {**sampler.signature.examples(), **given}
    with torch.no_grad():
        return sampler.module()(**inputs)


def test_every_form_paints_what_tokens_paint(model):
    tokens = torch.tensor([model.tokenizer.encode(PROMPTS[1])])
    expected = paint(model, SampleRequest(), tokens=tokens)
    with torch.no_grad():
        embeddings = model.worded.encode(tokens)
    found = [
        paint(model, SampleRequest(prompt=PROMPTS[1])),
        paint(model, SampleRequest(prompts=PROMPTS), prompt=torch.tensor([1])),
        paint(model, SampleRequest(condition="embeddings"), embeddings=embeddings),
        paint(model, SampleRequest(guidance_input=True), tokens=tokens, guidance=torch.tensor([8.5])),
    ]
    for picture in found:
        torch.testing.assert_close(picture, expected, rtol=0, atol=1e-6)
    other = paint(model, SampleRequest(prompts=PROMPTS), prompt=torch.tensor([0]))
    assert (other - expected).abs().max() > 1e-4


def test_guidance_that_is_baked_is_the_one_that_is_fed(model):
    tokens = torch.tensor([model.tokenizer.encode(PROMPTS[0])])
    fed = paint(model, SampleRequest(guidance_input=True), tokens=tokens, guidance=torch.tensor([3.0]))
    baked = paint(model, SampleRequest(guidance=3.0), tokens=tokens)
    torch.testing.assert_close(baked, fed, rtol=0, atol=1e-6)
    assert (paint(model, SampleRequest(guidance=12.0), tokens=tokens) - baked).abs().max() > 1e-6


def test_prompts_to_calibrate_with_are_what_is_drawn(model):
    long = "a " * 100
    for form in ("tokens", "embeddings"):
        request = SampleRequest(calibration_prompts=("red heart", long, ""), condition=form)
        sampler = resolve(model, request)
        expected = torch.tensor([model.tokenizer.encode(prompt) for prompt in ("red heart", long, "", "red heart")])
        if form == "embeddings":
            expected = model.worded.encode(expected)
        for index, row in enumerate(expected):
            torch.testing.assert_close(sampler.signature.examples(index)[form][0], row)
        again = resolve(sampler.model, request).signature
        torch.testing.assert_close(again.examples(1)[form], sampler.signature.examples(1)[form])
    usual = resolve(model, SampleRequest()).signature.examples(0)["tokens"][0]
    assert not torch.equal(usual, torch.tensor(model.tokenizer.encode("red heart")))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": "a", "condition": "embeddings"}, "--prompt and --condition embeddings contradict"),
        ({"prompts": ("a", "b", "a")}, "'a' comes twice"),
        ({"condition": "words"}, "known are tokens, embeddings"),
        ({"calibration_prompts": ("a",), "prompts": ("a", "b")}, "--calibration-prompts and --prompts contradict"),
        ({"calibration_prompts": ("a",), "prompt": "a"}, "--calibration-prompts and --prompt contradict"),
        ({"guidance": 0.5}, "between 1 and 100"),
        ({"guidance": 2.0, "guidance_input": True}, "contradict"),
    ],
)
def test_what_contradicts_is_refused(model, asked, said):
    with pytest.raises(UsageError, match=said):
        resolve(model, SampleRequest(**asked))


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "a"},
        {"prompts": ("a",)},
        {"condition": "embeddings"},
        {"guidance": 2.0},
        {"calibration_prompts": ("a",)},
    ],
)
def test_a_model_without_text_takes_none(asked):
    with pytest.raises(UsageError, match="takes no"):
        resolve(model_around(torch.nn.Identity(), 8, 3), SampleRequest(**asked))
