"""diffusers folders, saved by diffusers itself and compared with its own pipeline."""

import json
import logging
import sys

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.diffusers_folder import is_hub_id
from cmexport.errors import BackendError, CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import karras_levels

UNETS = {
    "imagenet": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 32, "num_class_embeds": 6},
    "lsun": {"resnet_time_scale_shift": "default"},
    "plain": {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "downsample_type": "conv",
        "upsample_type": "conv",
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
}


def pipeline(seed=0, levels=40, **fields):
    defaults = {
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": (32, 64),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": 32,
    }
    unet = UNet2DModel(**{**defaults, **fields}).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in unet.state_dict().items():
        spread = 0.3 if tensor.dim() == 1 else 0.8 / max(tensor[0].numel(), 1) ** 0.5
        center = 1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0
        tensor.copy_(center + spread * torch.randn(tensor.shape, generator=generator))
    made = ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler(num_train_timesteps=levels))
    made.set_progress_bar_config(disable=True)
    return made


def two_steps(made, monkeypatch, noise, renoise, labels):
    """diffusers' own pictures for timesteps=[22, 0], with the given noise."""
    drawn = iter([renoise, torch.zeros_like(noise)])  # The last draw is multiplied by exactly 0.
    module = sys.modules["diffusers.schedulers.scheduling_consistency_models"]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(drawn))
    return made(
        batch_size=len(noise),
        latents=noise.clone(),
        class_labels=labels,
        num_inference_steps=None,
        timesteps=[22, 0],
        output_type="np",
    ).images


@pytest.mark.parametrize("form", ["safetensors", "bin", "fp16"])
@pytest.mark.parametrize("name", UNETS)
def test_two_steps_equal_the_pipeline(name, form, tmp_path, monkeypatch):
    made = pipeline(**UNETS[name])
    if form == "fp16":
        made.unet.load_state_dict({k: v.half().float() for k, v in made.unet.state_dict().items()})
        half = pipeline(**UNETS[name])
        half.unet.load_state_dict(made.unet.state_dict())
        half.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    else:
        made.save_pretrained(tmp_path, safe_serialization=form == "safetensors")
    generator = torch.Generator().manual_seed(5)
    noise, renoise = (torch.randn(3, 3, 16, 16, generator=generator) for _ in range(2))
    labels = torch.tensor([0, 5, 2]) if name == "imagenet" else None
    expected = two_steps(made, monkeypatch, noise, renoise, labels)

    model = load_checkpoint(tmp_path)
    levels = karras_levels(model.noise, model.noise.levels)
    graph = SamplerGraph(resolve(model, SampleRequest(sigmas=(levels[0], levels[22]), batch=3)))
    with torch.no_grad():
        image = graph(noise, renoise=renoise[None], label=labels)
    got = (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(got - expected).max() < 1e-5
    assert got.std() > 0.05
    assert model.image_size == 16
    assert not any(setting.ambiguous for setting in model.settings)


def test_constants_come_from_the_scheduler(tmp_path):
    made = pipeline(levels=151)
    made.register_modules(scheduler=CMStochasticIterativeScheduler(151, 0.01, 50.0, 0.6, rho=5.0, clip_denoised=False))
    made.save_pretrained(tmp_path)
    model = load_checkpoint(tmp_path, {"sigma_data": "0.7"})
    noise = model.noise
    assert (noise.levels, noise.sigma_min, noise.sigma_max, noise.sigma_data, noise.rho) == (151, 0.01, 50.0, 0.7, 5.0)
    assert not model.clamp
    with pytest.raises(UsageError, match=r"num_classes"):
        load_checkpoint(tmp_path, {"num_classes": "10"})


def test_bare_unet(tmp_path):
    pipeline().unet.save_pretrained(tmp_path / "unet")
    for folder in (tmp_path, tmp_path / "unet"):
        model = load_checkpoint(folder)
        assert next(s for s in model.settings if s.name == "levels").ambiguous
        assert model.source.size_bytes > 1e5


def test_third_party_pipeline(tmp_path):
    made = pipeline()
    made.unet.save_pretrained(tmp_path / "unet")
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "ConsistencyPipeline", "unet": ["diffusers", "UNet2DModel"]})
    )
    model = load_checkpoint(tmp_path)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    # Its rule: sigma itself as time, unscaled input, c_skip from sigma - sigma_min, c_out from sigma.
    s, d, e = 80.0, 0.5, 0.002
    with torch.no_grad():
        raw = made.unet(s * x, torch.tensor([s, s])).sample
    expected = d**2 / ((s - e) ** 2 + d**2) * s * x + d * s / (s**2 + d**2) ** 0.5 * raw
    graph = SamplerGraph(resolve(model, SampleRequest(batch=2)))
    with torch.no_grad():
        assert (graph(x) - expected.clamp(-1, 1)).abs().max() < 1e-5


def edit(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def test_early_broken_revision(tmp_path):
    """scale_shift networks once lost the mid block's norm: mended if the weights have it, refused if not."""
    made = pipeline(**UNETS["imagenet"])
    made.save_pretrained(tmp_path)
    edit(tmp_path / "unet" / "config.json", attn_norm_num_groups=None)
    mended = load_checkpoint(tmp_path)
    x, c = torch.randn(1, 3, 16, 16), torch.tensor([10.0], dtype=torch.float64)
    with torch.no_grad():
        expected = made.unet(x, c.float(), class_labels=torch.tensor([1])).sample
    assert (mended.network(x, c, torch.tensor([1])) - expected).abs().max() < 1e-4
    state = {k: v for k, v in made.unet.state_dict().items() if "mid_block.attentions.0.group_norm" not in k}
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, tmp_path / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match="4414"):
        load_checkpoint(tmp_path)


def test_attention_names_before_0_17(tmp_path):
    made = pipeline()
    made.save_pretrained(tmp_path, safe_serialization=False)
    path = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    state = torch.load(path, weights_only=True)
    old = {}
    for key, value in state.items():
        for a, b in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f".{a}.", f".{b}.")
        old[key] = value
    assert set(old) != set(state)
    torch.save(old, path)
    network = load_checkpoint(tmp_path).network
    assert torch.equal(network.unet.mid_block.attentions[0].to_q.weight, made.unet.mid_block.attentions[0].to_q.weight)


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ("unet/config.json", {"layers_per_block": 10**9}, "implausible"),
        ("unet/config.json", {"block_out_channels": [32, 10**9]}, "implausible"),
        ("unet/config.json", {"block_out_channels": [32, 96]}, "shape"),
        ("unet/config.json", {"down_block_types": ["Nothing", "AttnDownBlock2D"]}, "UNet2DModel"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ("scheduler/scheduler_config.json", {"sigma_max": "80"}, "sigma_max"),
        ("scheduler/scheduler_config.json", {"sigma_data": -1}, "sigma_data"),
        ("scheduler/scheduler_config.json", {"s_noise": 0.5}, "s_noise"),
    ],
)
def test_refused(file, changes, reason, tmp_path):
    pipeline().save_pretrained(tmp_path)
    edit(tmp_path / file, **changes)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_damaged_folders(tmp_path):
    made = pipeline()
    made.save_pretrained(tmp_path)
    config, index = tmp_path / "unet" / "config.json", tmp_path / "model_index.json"
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    for path, content in ((config, b"{"), (config, b"[1]"), (config, b"[" * 100_000), (index, b"\xff\xfe")):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="json"):
            load_checkpoint(tmp_path)
        path.write_bytes(kept)
    data = weights.read_bytes()
    for percent in range(0, 100, 13):
        weights.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(CheckpointError, match="safetensors"):
            load_checkpoint(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match="none of"):
        load_checkpoint(tmp_path)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(tmp_path)


def test_hub_identities():
    assert is_hub_id("openai/diffusers-cd_imagenet64_l2")
    for local in ("models/cm.pt", "a/b/c", "model", "/abs/x", "a/b.safetensors", "../x", "tests/nothing"):
        assert not is_hub_id(local)


def test_hub_cache_and_no_network(tmp_path, monkeypatch):
    import huggingface_hub

    pipeline().save_pretrained(tmp_path)
    asked = []

    def cached(identity, local_files_only=False, **_):
        asked.append((identity, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert load_checkpoint("openai/diffusers-cd_imagenet64_l2").image_size == 16
    assert asked == [("openai/diffusers-cd_imagenet64_l2", True)]

    def offline(identity, **_):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"openai/diffusers-cd_x: .*neither in the local cache nor reachable"):
        load_checkpoint("openai/diffusers-cd_x")


def test_without_diffusers(tmp_path, monkeypatch):
    pipeline().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(BackendError, match=r"cmexport\[diffusers\]"):
        load_checkpoint(tmp_path)


def by_hand(made, monkeypatch, noise, renoise):
    """diffusers' network and scheduler, timesteps=[22, 0]; its pipeline draws squares only."""
    drawn = iter([renoise, torch.zeros_like(noise)])
    module = sys.modules["diffusers.schedulers.scheduling_consistency_models"]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(drawn))
    made.scheduler.set_timesteps(timesteps=[22, 0])
    x = noise * made.scheduler.init_noise_sigma
    for t in made.scheduler.timesteps:
        with torch.no_grad():
            raw = made.unet(made.scheduler.scale_model_input(x, t), t).sample
        x = made.scheduler.step(raw, t, x).prev_sample
    return (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("stated", [[16, 32], [32, 16], ["16", 32.0]])
def test_a_rectangle_equals_diffusers_network_and_scheduler(stated, tmp_path, monkeypatch):
    height, width = (int(float(side)) for side in stated)
    made = pipeline(sample_size=(height, width))
    made.save_pretrained(tmp_path)
    rewrite(tmp_path / "unet" / "config.json", sample_size=stated)
    generator = torch.Generator().manual_seed(5)
    noise, renoise = (torch.randn(2, 3, height, width, generator=generator) for _ in range(2))
    expected = by_hand(made, monkeypatch, noise, renoise)
    model = load_checkpoint(tmp_path)
    assert (model.space.height, model.space.width, model.image_size) == (height, width, (height, width))
    levels = karras_levels(model.noise, model.noise.levels)
    graph = SamplerGraph(resolve(model, SampleRequest(sigmas=(levels[0], levels[22]), batch=2)))
    with torch.no_grad():
        image = graph(noise, renoise=renoise[None])
    got = (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(got - expected).max() < 1e-5
    assert not model.assumed
    # A square sample_size is another drawing size of the same convolutions: --set says so on purpose.
    assert load_checkpoint(tmp_path, {"image_size": "8x16"}).image_size == (8, 16)


def rewrite(path, **fields):
    """Change fields of a JSON file; None removes nothing, it is JSON's null."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sample_size": "wide"}, "sample_size wide"),
        ({"sample_size": [16, 16, 16]}, "sample_size"),
        ({"sample_size": 16.5}, "sample_size 16.5"),
        ({"sample_size": [16, 33]}, "image_size=16x32"),
        ({"sample_size": 36.0, "x": 1}, None),
        ({"attention_head_dim": [8, 8]}, "attention_head_dim is a list"),
        ({"norm_num_groups": [8, 8]}, "norm_num_groups is a list"),
        ({"out_channels": 6}, "takes 3 channels and returns 6"),
        ({"time_embedding_type": "learned", "num_train_timesteps": 40}, "whole timestep"),
    ],
)
def test_a_value_that_is_there_is_honoured_or_refused(fields, said, tmp_path):
    pipeline().save_pretrained(tmp_path)
    rewrite(tmp_path / "unet" / "config.json", **fields)
    if said is None:
        assert load_checkpoint(tmp_path).image_size == 36
        return
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(tmp_path)


def test_fields_that_the_library_does_not_know_are_said(tmp_path):
    pipeline().save_pretrained(tmp_path)
    rewrite(tmp_path / "unet" / "config.json", qk_norm="rms", harmless=None)
    (said,) = [s.remark for s in load_checkpoint(tmp_path).settings if s.remark]
    assert "has no qk_norm; not used" in said


def test_the_libraries_keep_their_remarks_to_themselves(tmp_path, monkeypatch, capfd):
    import huggingface_hub

    pipeline().save_pretrained(tmp_path)
    # diffusers warns of both: a head width of null, and a field it leaves out.
    rewrite(tmp_path / "unet" / "config.json", attention_head_dim=None, surprise=1)
    heard = []
    handler = logging.Handler()
    handler.emit = heard.append
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    level = logger.level

    def cached(identity, **_):
        for _ in huggingface_hub.utils.tqdm(range(3), desc=f"Fetching {identity}"):
            pass
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    try:
        load_checkpoint("openai/diffusers-cd_imagenet64_l2")
    finally:
        logger.removeHandler(handler)
    assert heard == []
    assert logger.level == level
    assert capfd.readouterr().err == ""


def test_a_scheduler_beside_a_bare_unet_is_read(tmp_path):
    made = pipeline(levels=151)
    made.save_pretrained(tmp_path)
    (tmp_path / "model_index.json").unlink()
    for folder in (tmp_path, tmp_path / "unet"):
        model = load_checkpoint(folder)
        assert model.noise.levels == 151
        assert not model.assumed
    rewrite(tmp_path / "scheduler" / "scheduler_config.json", num_train_timesteps=40.5)
    with pytest.raises(CheckpointError, match=r"num_train_timesteps is 40\.5"):
        load_checkpoint(tmp_path)


def test_scale_shift_without_a_norm_is_sound_since_pull_request_4863(tmp_path, monkeypatch):
    made = pipeline(resnet_time_scale_shift="scale_shift", attn_norm_num_groups=None)
    assert made.unet.mid_block.attentions[0].group_norm is None
    made.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(5)
    noise, renoise = (torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2))
    expected = two_steps(made, monkeypatch, noise, renoise, None)
    model = load_checkpoint(tmp_path)
    levels = karras_levels(model.noise, model.noise.levels)
    graph = SamplerGraph(resolve(model, SampleRequest(sigmas=(levels[0], levels[22]), batch=2)))
    with torch.no_grad():
        got = (graph(noise, renoise=renoise[None]) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(got - expected).max() < 1e-5
    # A configuration older than the field can't tell a sound network from the broken upload.
    path = tmp_path / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["attn_norm_num_groups"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="attn_norm_num_groups"):
        load_checkpoint(tmp_path)


def test_fourier_features_take_sigma_and_nothing_negative(tmp_path):
    made = pipeline(**UNETS["plain"], time_embedding_type="fourier")
    made.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="takes the logarithm"):
        load_checkpoint(tmp_path)
    model = load_checkpoint(tmp_path, {"c_noise": "sigma"})
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = made.unet(x, 3.0).sample
        got = model.network(x, torch.tensor([3.0], dtype=torch.float64))
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_many_levels_and_sizes_that_do_not_fit(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D",) * 7, "up_block_types": ("UpBlock2D",) * 7}
    pipeline(block_out_channels=(32,) * 7, sample_size=128, **blocks).save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path).space.multiple == 64
    rewrite(tmp_path / "unet" / "config.json", sample_size=96)
    with pytest.raises(CheckpointError, match="multiples of 64"):
        load_checkpoint(tmp_path)
