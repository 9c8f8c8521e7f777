"""Latent text-to-image pipelines: diffusers' own draws the same pictures, and each bad folder is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.latent_pipelines import decoder, differs, edited, save_pipeline, tiny_pipeline, weights

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError
from cmexport.sampling.methods import resolve


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (2, 12.0), (4, 8.5), (8, 3.3)])
def test_latent_consistency_pipelines(vae, steps, guidance):
    assert differs(tiny_pipeline("lcm", vae), steps, guidance) < (8e-4 if steps == 1 else 2e-4)


@pytest.mark.parametrize("kind", ["lcm", "tcd", "euler", "euler_ancestral"])
@pytest.mark.parametrize("steps", [1, 4])
def test_stable_diffusion_pipelines_without_guidance(kind, steps, tmp_path):
    folder = save_pipeline(tmp_path, kind, latent=False)
    # The pipeline gives TCD's scheduler an eta of 0 unless it is told; the scheduler alone has 0.3.
    for eta in [{"eta": 0.3}, {"eta": 0.0}] if kind == "tcd" else [{}]:
        assert differs(folder, steps, 0.0, **eta) < (8e-4 if steps == 1 else 2e-4)
    model = load_checkpoint(folder)
    assert [c.name for c in model.conditions] == ["embeddings"]
    assert len(resolve(model).plan.evaluations) == (4 if kind in ("lcm", "tcd") else 1)


def test_stable_diffusion_with_embedded_guidance_has_its_own_default(tmp_path):
    folder = save_pipeline(tmp_path, "lcm", latent=False, unet_fields={"time_cond_proj_dim": 32})
    model = load_checkpoint(folder)
    assert resolve(model).baked == {"guidance": 7.5}
    assert differs(folder, 2, 7.5, model=model) < 2e-4
    assert resolve(load_checkpoint(tiny_pipeline())).baked == {"guidance": 8.5}


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 4])
def test_predictions(prediction, steps, tmp_path):
    folder = save_pipeline(tmp_path, schedule={"prediction_type": prediction})
    assert differs(folder, steps, 5.0) < 2e-4


@pytest.mark.parametrize("grid", [20, 100])
def test_other_grids(grid, tmp_path):
    folder = save_pipeline(tmp_path, schedule={"original_inference_steps": grid})
    assert differs(folder, 4, 5.0) < 2e-4


@pytest.mark.parametrize("size", ["16x24", "32x8"])
def test_rectangles(size):
    assert differs(tiny_pipeline("lcm", "kl"), 2, 5.0, size=size) < 2e-4


def test_clamped_x0(tmp_path):
    folder = save_pipeline(tmp_path, schedule={"clip_sample": True, "clip_sample_range": 0.7})
    assert differs(folder, 2, 5.0) < 2e-4


def test_a_shift_that_diffusers_does_not_use_is_said(tmp_path):
    folder = save_pipeline(tmp_path, vae="kl", vae_fields={"shift_factor": 0.3})
    model = load_checkpoint(folder)
    assert differs(folder, 2, 5.0, model=model) < 2e-4
    assert "shift_factor 0.3 is not used" in next(s.remark for s in model.settings if s.name == "shift_factor")


@pytest.mark.parametrize(
    "options",
    [{"safe_serialization": False}, {"max_shard_size": "50KB"}, {"variant": "fp16"}],
    ids=["bin", "shards", "only fp16"],
)
def test_other_files_of_weights(options, tmp_path):
    usual, model = load_checkpoint(tiny_pipeline()), load_checkpoint(save_pipeline(tmp_path, **options))
    for one, other in zip(usual.modules, model.modules, strict=True):
        assert all(torch.equal(a, other.state_dict()[name]) for name, a in one.state_dict().items())
    chosen = [(s.value, s.origin) for s in model.settings if s.name == "weights"]
    assert chosen == ([("fp16", "the only variant that is there")] if "variant" in options else [])


def test_a_variant_of_all_parts(tmp_path):
    save_pipeline(tmp_path)
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (tmp_path / part).glob("*.safetensors")
        halved = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(halved, file.with_suffix(".fp16.safetensors"))
    full, half = load_checkpoint(tmp_path), load_checkpoint(tmp_path, weights="fp16")
    for one, other in zip(full.modules, half.modules, strict=True):
        state = other.state_dict()
        assert all(torch.equal(t.half().float(), state[name]) for name, t in one.state_dict().items())
    assert not torch.equal(full.network.unet.conv_in.weight, half.network.unet.conv_in.weight)
    with pytest.raises(CheckpointError, match=r"no part has weights of the variant 'fp8'; there are: fp16"):
        load_checkpoint(tmp_path, weights="fp8")


@pytest.mark.parametrize("files", [{}, {"safe_serialization": False}, {"variant": "fp16"}], ids=["", "bin", "fp16"])
def test_a_hub_model_comes_with_all_parts_and_no_more(files, tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    folder = save_pipeline(tmp_path / "all", **files)
    if not files:
        (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"large")
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"large")
    for extra in ("safety_checker/model.safetensors", "safety_checker/pytorch_model.bin", "LCM_4k.safetensors"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_bytes(b"large")
    (folder / "tokenizer" / "merges.txt").touch()

    def snapshot(_, allow_patterns, ignore_patterns=None, local_files_only=False):
        if local_files_only:
            raise FileNotFoundError
        there = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        for name in filter_repo_objects(there, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, tmp_path / "got" / name)
        return str(tmp_path / "got")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    model = load_checkpoint("someone/some-lcm")
    assert model.source.reference == "someone/some-lcm"
    assert model.tokenizer is not None
    assert (tmp_path / "got" / "tokenizer" / "merges.txt").exists()
    got = {p.relative_to(tmp_path / "got").as_posix() for p in (tmp_path / "got").rglob("*")}
    assert not {"safety_checker", "LCM_4k.safetensors"} & got
    assert not any("non_ema" in name or (name.endswith(".bin") and not files) for name in got)


def spoil(tensors):
    tensors[sorted(tensors)[-1]].view(-1)[0] = float("nan")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def without(part):
    return lambda folder: shutil.rmtree(folder / part)


def config(part, **changes):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return lambda folder: edited(folder / part / name, **changes)


def index(**changes):
    return lambda folder: edited(folder / "model_index.json", **changes)


def no_merges(folder):
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    del content["model"]["merges"]
    path.write_text(json.dumps(content))


UNET, VAE, TEXT = "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"
BAD = {
    **{f"no {part}": (without(part), rf"lacks the folder {part}/") for part in ("unet", "vae", "scheduler")},
    "no text encoder": (without("text_encoder"), r"lacks the folder text_encoder/"),
    "no tokenizer": (without("tokenizer"), r"lacks the folder tokenizer/"),
    "a part of null": (index(vae=[None, None]), r"model_index.json says that it has no vae"),
    "no weights": (lambda f: (f / f"{VAE}.safetensors").unlink(), r"vae: holds no weights"),
    "foreign scheduler": (config("scheduler", _class_name="DDIMScheduler"), r"scheduler is DDIMScheduler"),
    "no guidance": (config("unet", time_cond_proj_dim=None), r"unet/config.json: time_cond_proj_dim is missing"),
    "no cond_proj": (
        lambda f: weights(f, "unet", lambda t: t.pop("time_embedding.cond_proj.weight")),
        r"unet: 1 weight missing: time_embedding.cond_proj.weight",
    ),
    "one weight more": (
        lambda f: weights(f, "vae", lambda t: t.update(surplus=torch.ones(1))),
        r"vae: 1 weight more than the network has: surplus",
    ),
    "no merges": (no_merges, r"tokenizer.json.*merges"),
    "76 positions": (config("text_encoder", max_position_embeddings=76), r"max_position_embeddings is 76"),
    "a wide UNet": (
        config("unet", cross_attention_dim=48),
        r"cross_attention_dim is 48, but the text encoder gives 32",
    ),
    "few words": (config("text_encoder", vocab_size=10), r"vocab_size is 10, but its tokenizer has"),
    "foreign words": (config("text_encoder", architectures=["T5EncoderModel"]), r"is a T5EncoderModel; only CLIPText"),
    "odd architectures": (config("text_encoder", architectures={"a": 1}), r"is a .*only CLIPText"),
    "odd activation": (config("text_encoder", hidden_act=["gelu"]), r"hidden_act '\['gelu'\]'; known are"),
    "odd epsilon": (config("text_encoder", layer_norm_eps="small"), r"layer_norm_eps is small"),
    "many layers": (config("text_encoder", num_hidden_layers=10**6), r"text_encoder/config.json: 1000000 layers"),
    "endless width": (config("text_encoder", hidden_size=10**12), r"hidden_size is 1000000000000"),
    "odd text_config": (config("text_encoder", text_config=[1]), None),
    "foreign vae": (config("vae", _class_name="VQModel"), r"vae/config.json: is a VQModel; known are AutoencoderKL"),
    "16 channels": (config("vae", latent_channels=16), r"latent_channels is 16, but the UNet paints 4 channels"),
    "no scale": (config("vae", scaling_factor=0), r"vae/config.json: scaling_factor is 0"),
    "many blocks": (
        config("vae", num_decoder_blocks=[10**5, 1]),
        r"vae/config.json: num_decoder_blocks is implausible",
    ),
    "deep": (config("unet", layers_per_block=10**5), r"unet/config.json: layers_per_block is implausible"),
    "nested": (config("unet", transformer_layers_per_block=[[[[1]]]]), r"transformer_layers_per_block is implausible"),
    "vast": (config("unet", block_out_channels=[32, 10**9]), r"block_out_channels is implausible"),
    "wider": (config("unet", block_out_channels=[32, 96000]), r"unet: .* has shape"),
    "no heads": (config("unet", attention_head_dim=0), r"unet/config.json: describes no UNet2DConditionModel"),
    "foreign unet": (config("unet", _class_name="FluxTransformer2DModel"), r"is a FluxTransformer2DModel, not UNet2D"),
    "SDXL's unet": (
        config("unet", addition_embed_type="text_time"),
        r"addition_embed_type is text_time; a LatentConsistencyModelPipeline has None",
    ),
    "classes": (config("unet", class_embed_type="timestep"), r"class_embed_type timestep is not supported"),
    "inpainting": (config("unet", in_channels=9), r"unet"),
    "odd size": (config("unet", sample_size=[8, 8, 8]), r"sample_size is"),
    "no size": (config("unet", sample_size=-1), r"sample_size is"),
    "no JSON": (lambda f: (f / "unet" / "config.json").write_text("{"), r"unet/config.json: is no valid JSON"),
    "a list": (lambda f: (f / "vae" / "config.json").write_text("[]"), r"vae/config.json: is no JSON object"),
    **{
        f"NaN in {part}": (lambda f, part=part: weights(f, part, spoil), rf"{part}: .*NaN")
        for part in ("unet", "vae", "text_encoder")
    },
    **{
        f"{name} cut": (lambda f, name=name: cut(f / f"{name}.safetensors"), rf"{name}.safetensors: its safetensors")
        for name in (UNET, VAE, TEXT)
    },
    "SD3": (index(_class_name="StableDiffusion3Pipeline"), r"is a StableDiffusion3Pipeline; known are .*XLPipeline"),
    "SDXL without its second": (
        index(_class_name="StableDiffusionXLPipeline"),
        r"lacks the folder tokenizer_2/, a part of every StableDiffusionXLPipeline",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_refused(case, tmp_path):
    spoilt, reason = BAD[case]
    shutil.copytree(tiny_pipeline(), tmp_path, dirs_exist_ok=True)
    spoilt(tmp_path)
    if reason is None:
        load_checkpoint(tmp_path)
        return
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert caught.value.exit_code == 3


def test_a_safety_checker_is_no_part(tmp_path):
    shutil.copytree(tiny_pipeline(), tmp_path, dirs_exist_ok=True)
    edited(tmp_path / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert load_checkpoint(tmp_path).source.sha256 == load_checkpoint(tiny_pipeline()).source.sha256


def test_another_decoder(tmp_path):
    own = tiny_pipeline("lcm", "kl")
    decoder("tiny", scaling_factor=1.2).save_pretrained(tmp_path / "taesd")
    model = load_checkpoint(own, {"decoder": f"tiny:{tmp_path / 'taesd'}"})
    shutil.copytree(own, tmp_path / "swapped")
    shutil.rmtree(tmp_path / "swapped" / "vae")
    shutil.copytree(tmp_path / "taesd", tmp_path / "swapped" / "vae")
    index = json.loads((own / "model_index.json").read_text()) | {"vae": ["diffusers", "AutoencoderTiny"]}
    (tmp_path / "swapped" / "model_index.json").write_text(json.dumps(index))
    assert differs(tmp_path / "swapped", 2, 5.0, model=model) < 2e-4
    assert [s.option for s in model.settings if s.name == "decoder"] == [f"--set decoder=tiny:{tmp_path / 'taesd'}"]
    assert model.source.sha256 != load_checkpoint(own, {"decoder": "kl"}).source.sha256
    with pytest.raises(CheckpointError, match=r"is an AutoencoderTiny, not what --decoder kl means"):
        load_checkpoint(tiny_pipeline(), {"decoder": "kl"})
    edited(tmp_path / "taesd" / "config.json", latent_channels=16)
    with pytest.raises(CheckpointError, match=r"taesd/config.json: latent_channels is 16, but the UNet paints 4"):
        load_checkpoint(own, {"decoder": f"tiny:{tmp_path / 'taesd'}"})
    with pytest.raises(UsageError, match=r"--set decoder=small: .* must be tiny:FOLDER"):
        load_checkpoint(own, {"decoder": "small"})
