"""Stable Diffusion in one file: the pictures of diffusers' pipeline of the same weights, and what must be refused."""

from __future__ import annotations

import json
import sys
import types
import warnings
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from support import clip_tokenizers, lora_files
from support import single_files as made
from support.latent_pipelines import decoder, drawn_by_diffusers, scheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import method_named, resolve
from cmexport.tokenizer import clip_tokenizer, write_tokenizer

PROMPTS = ("a photo of a cat", "", "a woman astronaut, 4k")
# Small enough to draw with: 8x8 latents of 64 pixels.
SMALL = {"image_size": "64"}
UNET, END = "model.diffusion_model.", "<|endoftext|>"


@cache
def weights(family="sd15", **changes):
    return made.checkpoint(family, made.UnetSizes(**changes) if changes else None)


@cache
def small(family="sd15"):
    """Two levels and few words, for what isn't about pictures; opened with `SMALL` and `tokenizer`."""
    two = {"channels": 32, "mults": (1, 2), "blocks": 1}
    sizes = {
        "sd15": made.UnetSizes(**two, depths=(1, 0)),
        "sd21": made.UnetSizes(**two, depths=(1, 0), linear=True),
        "sdxl": made.UnetSizes(**two, depths=(0, 1), context=128, linear=True, extra=1600),
    }
    return made.checkpoint(family, sizes[family], words=1000, mults=(1, 2, 2))


@pytest.fixture(scope="module")
def few_words(tmp_path_factory):
    """Settings of `small` files."""
    folder = clip_tokenizers.save(tmp_path_factory.mktemp("words"))
    return {"image_size": "32", "tokenizer": str(folder)}


def written(folder, state, name="model.safetensors", **metadata):
    path = folder / name
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata or None)
    return path


def tokenizer_alone(given):
    return {"tokenizer": given["tokenizer"]}


def settings(model):
    return {setting.name: setting for setting in model.settings}


def unet_by_diffusers(state, **config):
    unet = UNet2DConditionModel(sample_size=8, **config)
    converted = theirs.convert_ldm_unet_checkpoint(dict(state), unet.config)
    if config.get("time_cond_proj_dim"):
        # diffusers' converter drops it.
        converted["time_embedding.cond_proj.weight"] = state[UNET + "time_embed.cond_proj.weight"]
    unet.load_state_dict(converted)
    return unet


def autoencoder_by_diffusers(state, scale):
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        scaling_factor=scale,
    )
    vae.load_state_dict(theirs.convert_ldm_vae_checkpoint(dict(state), vae.config))
    return vae


def text_by_diffusers(state, prefix, layers, *, kind=CLIPTextModel):
    theirs_too = "transformer." not in prefix
    text = kind(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=layers,
            num_attention_heads=1,
            hidden_act="gelu" if theirs_too else "quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            projection_dim=64,
        )
    )
    if theirs_too:
        found = theirs.convert_open_clip_checkpoint(text, dict(state), prefix)
    else:
        found = theirs.convert_ldm_clip_checkpoint(dict(state))
    found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    text.load_state_dict({name: found[name.removeprefix("text_model.")] for name in text.state_dict()})
    return text


def words_by_transformers(folder, pad):
    write_tokenizer(folder / pad.strip("<|>"), clip_tokenizer(pad))
    return CLIPTokenizer.from_pretrained(folder / pad.strip("<|>"))


def saved_by_diffusers(folder, state, kind="lcm", *, heads, second=False, prediction="epsilon", guided=None):
    """The same weights as a folder, converted and saved by diffusers."""
    unet = unet_by_diffusers(
        state,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=64,
        attention_head_dim=heads,
        use_linear_projection=second,
        time_cond_proj_dim=guided,
    )
    prefix = "cond_stage_model.model." if second else "cond_stage_model.transformer."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (LatentConsistencyModelPipeline if guided else StableDiffusionPipeline)(
            vae=autoencoder_by_diffusers(state, 0.18215),
            text_encoder=text_by_diffusers(state, prefix, 23 if second else 2),
            tokenizer=words_by_transformers(folder, "!" if second else END),
            unet=unet,
            scheduler=scheduler(kind, prediction_type=prediction),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


def saved_xl_by_diffusers(folder, state, kind):
    """SDXL's the same way."""
    unet = unet_by_diffusers(
        state,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        cross_attention_dim=128,
        attention_head_dim=(4, 8, 16),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=1600,
    )
    first, other = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StableDiffusionXLPipeline(
            vae=autoencoder_by_diffusers(state, 0.13025),
            text_encoder=text_by_diffusers(state, first, 2),
            text_encoder_2=text_by_diffusers(state, other, 3, kind=CLIPTextModelWithProjection),
            tokenizer=words_by_transformers(folder, END),
            tokenizer_2=words_by_transformers(folder, "!"),
            unet=unet,
            scheduler=scheduler(kind),
            add_watermarker=False,
        ).save_pretrained(folder)
    return folder


def differs(model, folder, steps, guidance=0.0):
    """Largest difference of our reference from diffusers' pipeline of the folder."""
    levels = method_named("consistency", "generate").spaced(model, steps, "generate", 1).sigmas
    told = any(condition.usual is not None for condition in model.conditions)
    scale = guidance if told or guidance > 1 else None
    sampler = resolve(model, SampleRequest(levels, batch=len(PROMPTS), guidance=scale))
    given = sampler.signature.examples(5)
    given["tokens"] = torch.tensor([model.tokenizer.encode(prompt) for prompt in PROMPTS])
    expected = drawn_by_diffusers(folder, PROMPTS, given, guidance=guidance, steps=steps, height=64, width=64)
    with torch.no_grad():
        found = sampler.module()(**given)
    assert found.shape == expected.shape == (len(PROMPTS), 3, 64, 64)
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    # The pipeline clips, at its end.
    assert (expected.abs() < 0.999).float().mean() > 0.8
    return (found.clamp(-1, 1) - expected).abs().max().item()


def test_stable_diffusion_1_draws_diffusers_pictures(tmp_path):
    kind = "euler_ancestral"
    folder = saved_by_diffusers(tmp_path, weights(), kind, heads=8)
    model = load_checkpoint(written(tmp_path, weights()), {**SMALL, "scheduler": kind})
    assert differs(model, folder, 1) < 1e-3
    said = settings(model)
    assert said["scheduler"].origin == "--set scheduler"
    assert not model.assumed
    assert model.source.format == "Stable Diffusion 1 in one file (safetensors)"
    assert (said["num_heads"].value, said["scaling_factor"].value) == (8, 0.18215)


def test_lcm_told_by_its_embedded_guidance(tmp_path):
    state = weights(guided=16)
    folder = saved_by_diffusers(tmp_path, state, heads=8, guided=16)
    model = load_checkpoint(written(tmp_path, state), SMALL)
    assert differs(model, folder, 2, guidance=8.5) < 1e-3
    assert settings(model)["scheduler"].value == "lcm"
    assert not model.assumed
    assert resolve(model).baked == {"guidance": 8.5}


def test_stable_diffusion_2_draws_diffusers_pictures(tmp_path):
    state, prediction = weights("sd21"), "v_prediction"
    folder = saved_by_diffusers(tmp_path, state, heads=[4, 8, 16, 16], second=True, prediction=prediction)
    given = {**SMALL, "scheduler": "lcm", "prediction": prediction, "num_head_channels": "8"}
    model = load_checkpoint(written(tmp_path, state), given)
    assert differs(model, folder, 2) < 1e-3
    assert model.tokenizer.encode("hi!")[:5] == (49406, 1883, 0, 49407, 0)
    assert not model.assumed


def test_sdxl_draws_diffusers_pictures(tmp_path):
    state = weights("sdxl")
    folder = saved_xl_by_diffusers(tmp_path, state, "euler_ancestral")
    given = {**SMALL, "scheduler": "euler_ancestral", "num_head_channels": "8"}
    model = load_checkpoint(written(tmp_path, state), given)
    # With guidance the UNet is compared with zeros for the empty prompt, as the pipeline does by default.
    assert differs(model, folder, 1, guidance=2.0) < 1e-3
    assert not model.assumed
    assert model.source.format == "SDXL in one file (safetensors)"


def test_sdxl_with_a_tokenizer_of_one_s_own(tmp_path, few_words):
    given = {**few_words, "num_head_channels": "8"}
    model = load_checkpoint(written(tmp_path, small("sdxl")), given)
    assert [condition.name for condition in model.conditions] == ["embeddings", "pooled"]
    second = model.conditions[0].encode.translated
    assert second.pad == model.tokenizer.vocabulary["!"]


def test_stability_s_own_names_of_stable_diffusion_2(tmp_path, few_words):
    renamed = {key.replace("cond_stage_model.", "conditioner.embedders.0."): t for key, t in small("sd21").items()}
    model = load_checkpoint(written(tmp_path, renamed, "sd_turbo.safetensors"), {**few_words, "num_head_channels": "8"})
    said = settings(model)
    assert (said["scheduler"].value, said["scheduler"].origin) == ("euler_ancestral", "default of *turbo*")
    assert [setting.name for setting in model.assumed] == ["scheduler", "prediction"]
    assert said["prediction"].value == "epsilon"


def test_what_nothing_says_is_a_guess_and_said(tmp_path, few_words):
    model = load_checkpoint(written(tmp_path, small()), few_words)
    (guess,) = model.assumed
    assert (guess.name, guess.value) == ("scheduler", "lcm")
    assert "this may be a many-step model" in guess.origin
    assert load_checkpoint(tmp_path / "model.safetensors", tokenizer_alone(few_words)).space.height == 128
    with pytest.raises(UsageError, match=r"scheduler .* must be one of lcm, tcd, euler, euler_ancestral"):
        load_checkpoint(tmp_path / "model.safetensors", {"scheduler": "ddim"})


@pytest.mark.parametrize(
    ("name", "kind"), [("myLCM_v2", "lcm"), ("hyperRealism", "tcd"), ("dreamTurbo", "euler_ancestral"), ("dmd2", "lcm")]
)
def test_names_that_suggest_a_scheduler(name, kind, tmp_path, few_words):
    (guess,) = load_checkpoint(written(tmp_path, small(), f"{name}.safetensors"), few_words).assumed
    assert (guess.value, guess.origin[:10]) == (kind, "default of")


@pytest.mark.parametrize("spelled", [lora_files.kohya, lora_files.kohya_sgm], ids=["diffusers' names", "SGM's names"])
def test_a_lora_is_merged_and_its_name_suggests_a_scheduler(spelled, tmp_path, few_words):
    path = written(tmp_path, small(), "turboDreams.safetensors")
    plain = load_checkpoint(path, few_words)
    before = {key: tensor.clone() for key, tensor in plain.network.unet.state_dict().items()}
    layers = lora_files.trained({"unet": plain.network.unet}, only=("to_q", "conv1", "downsamplers.0.conv"), alpha=2.0)
    lora = lora_files.saved(tmp_path / "Hyper-SD15-1step-lora.safetensors", spelled(layers))
    model = load_checkpoint(path, {**few_words, "lora": f"{lora}:0.5"})
    after, changed = model.network.unet.state_dict(), {f"{layer.name}.weight": layer for layer in layers}
    for key, tensor in before.items():
        if (layer := changed.pop(key, None)) is not None:
            added = 0.5 * 2.0 / 4 * torch.einsum("or,r...->o...", layer.up.double().flatten(1), layer.down.double())
            tensor = (tensor.double() + added).float()
        assert torch.equal(after[key], tensor)
    assert not changed
    (guess,) = model.assumed
    assert (guess.name, guess.value) == ("scheduler", "tcd")
    assert guess.origin == "guess: the LoRA is called Hyper-SD15-1step-lora"
    assert model.source.sha256 != plain.source.sha256


def v_predictions():
    state = small("sd21")
    yield {}, state | {"v_pred": torch.zeros(0)}, "v_pred in the file"
    yield {"modelspec.prediction_type": "v"}, state, "modelspec.prediction_type in its header"


@pytest.mark.parametrize("case", [0, 1])
def test_v_prediction_that_a_file_states(case, tmp_path, few_words):
    metadata, state, origin = list(v_predictions())[case]
    model = load_checkpoint(
        written(tmp_path, state, **metadata),
        {**tokenizer_alone(few_words), "num_head_channels": "8", "scheduler": "lcm"},
    )
    said = settings(model)
    assert (said["prediction"].value, said["prediction"].origin) == ("v_prediction", origin)
    assert not model.assumed
    # 768 pixels.
    assert said["image_size"].value == 768


def same_modules(one, other):
    return all(
        torch.equal(tensor, state[name])
        for a, b in zip(one.modules, other.modules, strict=True)
        for state in [b.state_dict()]
        for name, tensor in a.state_dict().items()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, tmp_path, few_words):
    halved = {k: t.to(dtype) if t.is_floating_point() else t for k, t in small().items()}
    half = load_checkpoint(written(tmp_path, halved), few_words)
    full = load_checkpoint(written(tmp_path, {k: t.float() for k, t in halved.items()}, "full.safetensors"), few_words)
    assert same_modules(full, half)


def averaged(state):
    """LitEma's names: no dots."""
    return {
        "model_ema." + ("diffusion_model." + key.removeprefix(UNET)).replace(".", ""): tensor * 0.5
        for key, tensor in state.items()
        if key.startswith(UNET)
    } | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}


def test_averaged_weights_are_a_second_set(tmp_path, few_words):
    state = small()
    path = written(tmp_path, state | averaged(state))
    raw, average = load_checkpoint(path, few_words), load_checkpoint(path, few_words, weights="ema")
    name = "unet.mid_block.attentions.0.proj_in.weight"
    assert torch.equal(raw.network.state_dict()[name] * 0.5, average.network.state_dict()[name])
    assert settings(raw)["weights"].value == "model"
    assert settings(average)["weights"].value == "model_ema"
    # What a manifest records opens the same again.
    assert same_modules(average, load_checkpoint(path, few_words, weights="model_ema"))
    with pytest.raises(UsageError, match="--weights nonsense: there is no such set of weights"):
        load_checkpoint(path, few_words, weights="nonsense")
    with pytest.raises(UsageError, match="--weights ema: there is no such set of weights"):
        load_checkpoint(written(tmp_path, state, "raw.safetensors"), few_words, weights="ema")


def test_a_tokenizer_and_a_decoder_of_one_s_own(tmp_path, few_words):
    words = few_words["tokenizer"]
    decoder(
        "tiny",
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(tmp_path / "taesd")
    state = {key: tensor for key, tensor in small().items() if not key.startswith("first_stage_model.")}
    path = written(tmp_path, state)
    with pytest.raises(CheckpointError, match=r"holds no autoencoder .*\ngive --decoder tiny:FOLDER"):
        load_checkpoint(path, few_words)
    given = {**few_words, "decoder": f"tiny:{tmp_path / 'taesd'}", "tokenizer": words}
    model = load_checkpoint(path, given)
    assert settings(model)["tokenizer"].value == words
    assert settings(model)["decoder"].value == f"tiny:{tmp_path / 'taesd'}"
    # Another decoder is another model.
    (tmp_path / "taesd" / "diffusion_pytorch_model.safetensors").rename(tmp_path / "kept.safetensors")
    halved = {key: tensor * 0.5 for key, tensor in load_file(tmp_path / "kept.safetensors").items()}
    save_file(halved, tmp_path / "taesd" / "diffusion_pytorch_model.safetensors")
    assert load_checkpoint(path, given).source.sha256 != model.source.sha256
    with pytest.raises(CheckpointError, match="holds no CLIP tokenizer"):
        load_checkpoint(path, {**given, "tokenizer": str(tmp_path / "taesd")})


# .ckpt


def lightning_class():
    """What `ModelCheckpoint` is to pickle: a class of a module that isn't installed here."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind
    return module, kind


def test_a_training_file_of_lightning(tmp_path, monkeypatch, few_words):
    module, kind = lightning_class()
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = small()
    content = {
        "epoch": 3,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": dict(state),
        "callbacks": {kind: {"best_model_score": np.float64(0.5), "best_model_path": "/x.ckpt", "monitor": None}},
        "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [{"last_epoch": 3}],
    }
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    model = load_checkpoint(path, few_words)
    assert same_modules(load_checkpoint(written(tmp_path, state), few_words), model)
    assert model.source.format == "Stable Diffusion 1 in one file (torch zip)"


@pytest.mark.parametrize(("step", "prediction"), [(875000, "epsilon"), (110000, "v_prediction"), (None, None)])
def test_training_steps_tell_stability_s_own_files(step, prediction, tmp_path, few_words):
    torch.save(
        {"state_dict": dict(small("sd21"))} | ({} if step is None else {"global_step": step}), tmp_path / "m.ckpt"
    )
    model = load_checkpoint(tmp_path / "m.ckpt", {**few_words, "num_head_channels": "8", "scheduler": "lcm"})
    said = settings(model)["prediction"]
    assert said.ambiguous == (step is None)
    assert said.value == (prediction or "epsilon")


class Bomb:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('/tmp/cmexport-single-file-ran').touch()",)


@pytest.mark.parametrize("place", ["callbacks", "state_dict"])
def test_a_pickle_that_would_run_code(place, tmp_path, few_words):
    content = {"state_dict": dict(small()), "callbacks": {}}
    content[place]["x"] = Bomb()
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"refused, because opening it would import \w+\.exec; nothing was"):
        load_checkpoint(tmp_path / "model.ckpt")


# Hostile and damaged files


def without(*prefixes):
    return lambda state: {key: t for key, t in state.items() if not key.startswith(prefixes)}


def renamed(old, new):
    return lambda state: {key.replace(old, new): tensor for key, tensor in state.items()}


def changed(name, change):
    return lambda state: state | {name: change(state[name])}


def with_nan(tensor):
    spoilt = tensor.clone()
    spoilt.view(-1)[0] = float("nan")
    return spoilt


def more(**tensors):
    return lambda state: state | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


FIRST = UNET + "input_blocks.0.0.weight"
ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("sd15", without("cond_stage_model."), "a UNet without a text encoder"),
        ("sd15", without("first_stage_model."), "holds no autoencoder"),
        ("sd15", without(UNET + "input_blocks.2."), "its input_blocks have gaps: 1, 3"),
        ("sd15", without(UNET + "time_embed.0"), r"2 weights missing: time_embedding.linear_1.weight"),
        (
            "sd15",
            renamed("middle_block.1.norm", "middle_block.1.nrm"),
            "2 weights of its parts belong to no network of Stable Diffusion 1: "
            "model.diffusion_model.middle_block.1.nrm.bias, .*\ncmexport inspect .* --parts lists",
        ),
        ("sd15", renamed("decoder.mid.attn_1.q.", "decoder.mid.attn_1.query."), "2 weights of its parts belong to no"),
        ("sd15", renamed("self_attn.q_proj", "self_attn.query"), "4 weights of its parts belong to no network"),
        ("sd15", changed(UNET + "out.2.weight", with_nan), "conv_out.weight holds NaN"),
        ("sd15", changed("first_stage_model.decoder.conv_out.weight", with_nan), "conv_out.weight holds NaN"),
        ("sd15", changed(UNET + "middle_block.0.in_layers.2.weight", lambda t: t[:-1]), r"has shape \(63, 64, 3, 3\)"),
        (
            "sd15",
            changed(FIRST, lambda t: torch.zeros(32, 9, 3, 3)),
            "takes 9 channels: latents and a mask and",
        ),
        ("sd15", changed(FIRST, lambda t: torch.zeros(32, 8, 3, 3)), "takes 8 channels: latents and a picture to edit"),
        ("sd15", changed(FIRST, lambda t: t[0, 0]), "input_blocks.0.0.weight has shape"),
        ("sd15", changed("alphas_cumprod", lambda t: t * t), "alphas_cumprod are not Stable Diffusion's table"),
        ("sd15", more(edm_mean=ONE), "EDM's noise levels .edm_mean; Playground, CosXL"),
        ("sd15", more(ztsnr=ONE), "zero terminal signal-to-noise"),
        ("sd15", more(cond_stage_model__model__positional_embedding=ONE), "text encoders of two families"),
        ("sdxl", without("conditioner.embedders.1."), "SDXL's, which needs two text encoders"),
        ("sdxl", without("conditioner.embedders.0."), "SDXL's, which needs two text encoders"),
        (
            "sdxl",
            lambda state: renamed("embedders.1.", "embedders.0.")(without("conditioner.embedders.0.")(state)),
            "is SDXL's refiner",
        ),
    ],
)
def test_refusals(family, change, message, tmp_path, few_words):
    path = written(tmp_path, change(dict(small(family))))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, few_words)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_heads_that_do_not_divide_the_width(tmp_path, few_words):
    with pytest.raises(CheckpointError, match="32, 64 wide, no multiples of heads of 64; say --set num_head"):
        load_checkpoint(written(tmp_path, small("sd21")), few_words)


def test_a_file_cut_short(tmp_path, few_words):
    path = written(tmp_path, small())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="header is damaged"):
        load_checkpoint(path)
    torch.save({"state_dict": dict(small())}, path.with_suffix(".ckpt"))
    path.with_suffix(".ckpt").write_bytes(path.with_suffix(".ckpt").read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="zip structure is damaged"):
        load_checkpoint(path.with_suffix(".ckpt"))


def kohya():
    return {
        f"lora_unet_{name}.{end}": torch.zeros(4, 4)
        for name in ("input_blocks_1_1_proj_in", "mid_block_attentions_0_proj_in")
        for end in ("lora_up.weight", "lora_down.weight")
    }


def peft():
    return {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(4, 4)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            kohya,
            "is a LoRA, which is no model by itself; give the model that it was made for, and this file as --lora",
        ),
        (peft, "is a LoRA, .* as --lora FILE"),
        (lambda: made.filled(made.autoencoder(), "first_stage_model."), "is an autoencoder alone"),
        (lambda: made.filled(made.autoencoder()), "is an autoencoder alone"),
        (lambda: decoder("kl").state_dict(), "is an autoencoder alone"),
        (lambda: made.filled(made.unet(made.SD15)), "is a UNet of Stable Diffusion alone"),
        (lambda: made.filled(made.clip(words=10)), "is a text encoder alone"),
    ],
)
def test_files_that_hold_something_else(state, message, tmp_path, few_words):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(written(tmp_path, state()))


def test_strangers_beside_the_parts_are_said(tmp_path, few_words):
    strangers = {"embedding_manager.x": ONE, "control.y": torch.ones(1)}
    model = load_checkpoint(written(tmp_path, small() | strangers), few_words)
    assert "2 weights beside its parts not used: " in settings(model)["beside"].remark
    # Buffers of training are no strangers.
    assert "beside" not in settings(load_checkpoint(written(tmp_path, small()), few_words))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F8_E4M3", "shape": [4]}, "is F8_E4M3: weights in 8 bits are not read; give them in 16"),
        ({"dtype": "F32", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}, "has an impossible shape"),
        ({"dtype": "F32", "shape": [1]}, "without a text encoder"),
    ],
)
def test_headers_by_hand(entry, message, tmp_path, few_words):
    """All of a file is empty but for four bytes of one weight."""
    first = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = {name: first for name in small() if name.startswith(UNET)}
    header[UNET + "middle_block.0.emb_layers.1.bias"] = {"data_offsets": [0, 4], **entry}
    text = json.dumps(header | {"last": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, few_words)
