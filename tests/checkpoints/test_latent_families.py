"""Families of text-to-image models besides Stable Diffusion 1.5: diffusers' own pipelines draw the same pictures."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from support.clip_tokenizers import save_in_parts, trained
from support.latent_pipelines import (
    differs,
    edited,
    save_pipeline,
    save_xl_pipeline,
    tiny_xl_pipeline,
    weights,
)

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve

EXCLAIMED = ("a car!", "! woman ! cat", "", "a crying cat 12")

# Stable Diffusion 2.1 and SD-Turbo: OpenCLIP's text encoder, its padding, heads of 64 at every level.
SD2 = {
    "text_fields": {"hidden_act": "gelu", "num_hidden_layers": 3},
    "unet_fields": {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True},
    "pad": "!",
}
# BK-SDM and tiny-sd: a block less on the way down, none in the middle.
BK_SDM = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": None,
    "layers_per_block": 1,
}


@pytest.mark.parametrize(
    ("kind", "prediction", "steps"),
    [("euler_ancestral", "epsilon", 1), ("euler_ancestral", "epsilon", 4), ("lcm", "v_prediction", 4)],
)
def test_stable_diffusion_2(kind, prediction, steps, tmp_path):
    save_pipeline(tmp_path, kind, "kl", latent=False, schedule={"prediction_type": prediction}, **SD2)
    assert differs(tmp_path, steps, 0.0, prompts=EXCLAIMED) < 1e-4


@pytest.mark.parametrize("steps", [1, 4])
def test_bk_sdm(steps, tmp_path):
    save_pipeline(tmp_path, "lcm", latent=False, unet_fields=BK_SDM)
    assert differs(tmp_path, steps, 0.0) < 1e-4


@pytest.mark.parametrize("kind", ["euler_ancestral", "lcm", "tcd"])
@pytest.mark.parametrize("steps", [1, 4])
def test_sdxl(kind, steps):
    """SDXL-Turbo, and LCM-LoRA or Hyper-SD merged."""
    eta = {"eta": 0.3} if kind == "tcd" else {}
    assert differs(tiny_xl_pipeline(kind), steps, 0.0, prompts=EXCLAIMED, **eta) < 1e-4


@pytest.mark.parametrize("steps", [1, 4])
def test_lcm_sdxl(steps):
    """Its UNet is told the scale."""
    folder = tiny_xl_pipeline("lcm", 32)
    assert differs(folder, steps, 7.5) < 1e-4
    assert resolve(load_checkpoint(folder)).baked == {"guidance": 5.0}


@pytest.mark.parametrize("size", ["16x24", "32x8"])
def test_an_sdxl_unet_is_told_the_size(size):
    assert differs(tiny_xl_pipeline("euler_ancestral", vae="kl"), 1, 0.0, size=size) < 1e-4


@pytest.mark.parametrize("zeros", [True, False])
def test_guidance_of_sdxl_in_two_evaluations(zeros, tmp_path):
    folder = save_xl_pipeline(tmp_path, "lcm", zeros=zeros)
    assert differs(folder, 4, 3.0) < 1e-4


def test_another_prompt_than_the_empty_one_makes_a_difference(tmp_path):
    """What the test above could not tell, if it were not so."""
    pictures = []
    for zeros in (True, False):
        folder = save_xl_pipeline(tmp_path / str(zeros), "lcm", zeros=zeros)
        request = SampleRequest(guidance=3.0)
        sampler = resolve(load_checkpoint(folder), request)
        pictures.append(sampler.module()(**sampler.signature.examples(5)))
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3


def test_blocks_of_ssd_1b(tmp_path):
    """Segmind's UNets have other depths on the way up, and a middle without attention."""
    own = {
        "reverse_transformer_layers_per_block": [[1, 3], [2, 1]],
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "transformer_layers_per_block": [[1], [2]],
        "mid_block_type": "UNetMidBlock2D",
    }
    folder = save_xl_pipeline(tmp_path, "lcm", unet_fields=own)
    assert differs(folder, 4, 0.0) < 1e-4


def test_pictures_to_edit_are_the_same_pipeline(tmp_path):
    folder = shutil.copytree(tiny_xl_pipeline("lcm", 32, "kl"), tmp_path / "xl")
    content = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(content | {"_class_name": "StableDiffusionXLImg2ImgPipeline"}))
    edits, paints = load_checkpoint(folder), load_checkpoint(tiny_xl_pipeline("lcm", 32, "kl"))
    assert resolve(edits).baked == resolve(paints).baked == {"guidance": 5.0}
    given = resolve(paints).signature.examples(5)
    assert torch.equal(resolve(edits).module()(**given), resolve(paints).module()(**given))


@pytest.mark.parametrize("family", ["SD2", "SDXL"])
def test_layers_that_are_left_out(family, tmp_path, monkeypatch):
    """`clip_skip` of diffusers' pipelines; 1 is what web interfaces call 2."""
    from transformers import CLIPTextModel

    # diffusers 0.38 looks for the last norm where transformers 4 had it.
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    if family == "SDXL":
        folder = tmp_path / "xl"
        save_xl_pipeline(folder, text_fields={"num_hidden_layers": 3})
    else:
        folder = save_pipeline(tmp_path, "euler_ancestral", latent=False, **SD2)
    model = load_checkpoint(folder, {"clip_skip": "1"})
    assert ("clip_skip", 1, "--set clip_skip") in [(s.name, s.value, s.origin) for s in model.settings]
    assert differs(folder, 1, 0.0, model=model, clip_skip=1) < 1e-4
    assert differs(folder, 1, 0.0, clip_skip=1) > 1e-3
    with pytest.raises(CheckpointError, match=r"has 3 layers, of which the last . are left out"):
        load_checkpoint(folder, {"clip_skip": "3"})


def test_a_second_tokenizer_that_pads_as_the_first(tmp_path):
    folder = save_xl_pipeline(tmp_path, pad="<|endoftext|>")
    assert differs(folder, 1, 0.0, prompts=EXCLAIMED) < 1e-4


def test_all_forms_of_a_prompt_give_the_same_pictures():
    folder, prompt = tiny_xl_pipeline("lcm", 32), "a green car!"
    model = load_checkpoint(folder)
    given = resolve(model).signature.examples(3)
    noise = {name: given[name] for name in ("noise", "renoise")}
    tokens = torch.tensor([model.tokenizer.encode(prompt)])
    whole = resolve(model).module()(**noise, tokens=tokens)

    baked = resolve(model, SampleRequest(prompt=prompt))
    assert baked.signature.names == ("noise", "renoise")
    listed = resolve(model, SampleRequest(prompts=("a cat", prompt)))
    assert listed.signature.names == ("noise", "renoise", "prompt")
    said = resolve(model, SampleRequest(condition="embeddings"))
    assert [(i.name, i.shape) for i in said.signature.inputs[2:]] == [
        ("embeddings", (1, 77, 80)),
        ("pooled", (1, 40)),
    ]
    made = dict(zip(("embeddings", "pooled"), encoded_by_diffusers(folder, prompt), strict=True))
    for sampler, further in ((baked, {}), (listed, {"prompt": torch.tensor([1])}), (said, made)):
        assert (sampler.module()(**noise, **further) - whole).abs().max() < 1e-5


def encoded_by_diffusers(folder, prompt):
    """Embeddings (1, 77, D) and the pooled prompt (1, P)."""
    import diffusers

    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    embeddings, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return embeddings, pooled


@pytest.mark.parametrize("legacy", [True, False])
def test_prompts_are_pooled_where_they_end(legacy, tmp_path):
    folder = shutil.copytree(tiny_xl_pipeline(), tmp_path / "xl")
    if legacy:
        edited(folder / "text_encoder_2" / "config.json", eos_token_id=2)
    model = load_checkpoint(folder)
    made = model.examples(1)
    prompt = "a red heart " * 40
    tokens = torch.tensor([model.tokenizer.encode(prompt)])
    states = model.conditions[0].encode(tokens)
    pooled = model.conditions[1].encode(tokens, states)
    for found, expected in zip((states, pooled), encoded_by_diffusers(folder, prompt), strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5
    assert {name: value.shape[1:] for name, value in made.items()} == {"embeddings": (77, 80), "pooled": (40,)}


def config(part, **changes):
    return lambda folder: edited(folder / part / "config.json", **changes)


def other_words(folder):
    shutil.rmtree(folder / "tokenizer_2")
    save_in_parts(folder / "tokenizer_2")
    merges = folder / "tokenizer_2" / "merges.txt"
    merges.write_text("\n".join(merges.read_text(encoding="utf-8").split("\n")[:-3]), encoding="utf-8")


BAD = {
    "no second encoder": (
        lambda f: shutil.rmtree(f / "text_encoder_2"),
        r"lacks the folder text_encoder_2/, a part of every StableDiffusionXLPipeline",
    ),
    "a refiner": (
        lambda f: edited(f / "model_index.json", text_encoder=[None, None]),
        r"model_index.json says that it has no text_encoder",
    ),
    "two plain encoders": (
        config("text_encoder_2", architectures=["CLIPTextModel"]),
        r"text_encoder_2/config.json: is a CLIPTextModel; only CLIPTextModelWithProjection",
    ),
    "two projections": (
        config("text_encoder", architectures=["CLIPTextModelWithProjection"]),
        r"text_encoder/config.json: is a CLIPTextModelWithProjection; only CLIPTextModel is",
    ),
    "other words": (other_words, r"tokenizer and the first text encoder's are two"),
    "another end": (config("text_encoder_2", eos_token_id=5), r"pools prompts at token 5 .* ends them with"),
    "no width": (config("text_encoder_2", projection_dim="wide"), r"projection_dim is wide"),
    "another width": (config("text_encoder_2", projection_dim=24), r"text_encoder_2: .*text_projection.weight"),
    "no projection": (
        lambda f: weights(f, "text_encoder_2", lambda t: t.pop("text_projection.weight")),
        r"text_encoder_2: 1 weight missing: text_projection.weight",
    ),
    "one layer": (config("text_encoder", num_hidden_layers=1), r"text_encoder/config.json: has 1 layers, of which"),
    "narrow UNet": (config("unet", cross_attention_dim=32), r"but the text encoders give 80 numbers a token"),
    "SD1.5's UNet": (config("unet", addition_embed_type=None), r"addition_embed_type is None; a StableDiffusionXL"),
    "other time ids": (
        config("unet", addition_time_embed_dim=10),
        r"projection_class_embeddings_input_dim is 88, but the second text encoder pools to 40 .* time ids take 10",
    ),
    "odd time ids": (config("unet", addition_time_embed_dim="8"), r"projection_class_embeddings_input_dim is 88, but"),
    "deep on the way up": (
        config("unet", reverse_transformer_layers_per_block=[[1000], 1]),
        r"reverse_transformer_layers_per_block is implausible",
    ),
    "latents of Playground": (config("vae", latents_mean=[0.0] * 4), r"vae/config.json: latents_mean is not supported"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_refused(case, tmp_path):
    spoilt, reason = BAD[case]
    folder = shutil.copytree(tiny_xl_pipeline(), tmp_path / "xl")
    spoilt(folder)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_oracle_sees_the_second_tokenizer():
    """Diffusers' pictures of a prompt with "!" would be others if the second encoder got the first's tokens."""
    folder = tiny_xl_pipeline()
    model = load_checkpoint(folder)
    translated = model.conditions[0].encode.translated
    assert translated.replaced == {trained()[0]["!</w>"]: 0}
    assert differs(folder, 1, 0.0, prompts=EXCLAIMED, model=model) < 1e-4
    translated.replaced = {}
    assert differs(folder, 1, 0.0, prompts=EXCLAIMED, model=model) > 1e-3
