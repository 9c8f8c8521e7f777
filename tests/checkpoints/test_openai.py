"""OpenAI state dicts: what is inferred, and that f is the one diffusers computes from the same weights."""

import contextlib
import math
import subprocess
import sys
import textwrap

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.checkpoints import load_checkpoint
from cmexport.checkpoints.openai import infer_shape
from cmexport.errors import CheckpointError, UsageError
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.networks.meta import on_meta
from cmexport.sampling.methods import resolve
from cmexport.sampling.samplers import SamplerGraph
from cmexport.sampling.schedules import karras_levels

VARIANTS = {
    "released_imagenet": {"num_classes": 7},
    "released_lsun": {"use_scale_shift_norm": False},
    "plain_conv": {"resblock_updown": False},
    "plain_conv_additive": {"resblock_updown": False, "use_scale_shift_norm": False, "num_classes": 3},
    "plain_pool": {"resblock_updown": False, "conv_resample": False},
    "two_blocks_three_levels": {"num_res_blocks": 2, "channel_mult": (1, 2, 2), "attention_downsampling": (2, 4)},
    "attention_everywhere": {"attention_downsampling": (1, 2)},
    "attention_only_in_the_middle": {"attention_downsampling": ()},
    "one_level": {"channel_mult": (1,), "attention_downsampling": (), "num_res_blocks": 2},
    "narrow_heads": {"num_head_channels": 16},
    "head_major": {"qkv_order": "head_major", "num_head_channels": 16},
    "heads_by_count": {"channel_mult": (1, 1), "num_head_channels": -1, "num_heads": 2},
    "heads_by_count_head_major": {
        "channel_mult": (1, 1),
        "num_head_channels": -1,
        "num_heads": 4,
        "qkv_order": "head_major",
    },
    "widening_first_level": {"channel_mult": (2, 3), "num_res_blocks": 2},
    "one_channel": {"in_channels": 1, "out_channels": 1},
}


def told(config):
    """What `--set` must say, because weights don't."""
    fields = {"image_size": str(config.image_size), "qkv_order": config.qkv_order}
    if config.num_head_channels == -1:
        fields["num_heads"] = str(config.num_heads)
    else:
        fields["num_head_channels"] = str(config.num_head_channels)
    return fields


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_comes_back(variant, adm, save):
    network = adm(**VARIANTS[variant])
    model = load_checkpoint(save(network.state_dict()), told(network.config))
    assert model.network.config == network.config
    x = torch.randn(2, network.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(1))
    label = () if network.config.num_classes is None else (torch.tensor([0, network.config.num_classes - 1]),)
    c_noise = torch.tensor([80.9495], dtype=torch.float64)
    assert torch.equal(model.network(x, c_noise, *label), network(x, c_noise, *label))
    assert not model.network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.network.parameters())


def diffusers_unet(config):
    """The same architecture in diffusers' words."""
    attended = [2**level in config.attention_downsampling for level in range(len(config.channel_mult))]
    kind = "resnet" if config.resblock_updown else "conv"
    plain_down, plain_up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    if not config.resblock_updown:
        plain_down, plain_up = ("DownBlock2D", "UpBlock2D")
    widths = tuple(config.model_channels * m for m in config.channel_mult)
    width = config.num_head_channels if config.num_head_channels != -1 else widths[0] // config.num_heads
    return UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        layers_per_block=config.num_res_blocks,
        block_out_channels=widths,
        down_block_types=tuple("AttnDownBlock2D" if a else plain_down for a in attended),
        up_block_types=tuple("AttnUpBlock2D" if a else plain_up for a in reversed(attended)),
        downsample_type=kind,
        upsample_type=kind,
        attention_head_dim=width,
        attn_norm_num_groups=32,
        resnet_time_scale_shift="scale_shift" if config.use_scale_shift_norm else "default",
        num_class_embeds=config.num_classes,
    ).eval()


def to_diffusers(state, config):
    """OpenAI's names and layouts to diffusers', written from the naming rules of both."""
    out = {}
    resnet = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }

    def matrix(tensor):
        return tensor.reshape(tensor.shape[:2])

    def copy_resnet(old, new):
        for a, b in resnet.items():
            for leaf in ("weight", "bias"):
                if f"{old}.{a}.{leaf}" in state:
                    out[f"{new}.{b}.{leaf}"] = state[f"{old}.{a}.{leaf}"]

    def copy_attention(old, new):
        channels = state[f"{old}.norm.weight"].shape[0]
        heads = config.num_heads if config.num_head_channels == -1 else channels // config.num_head_channels
        for leaf in ("weight", "bias"):
            out[f"{new}.group_norm.{leaf}"] = state[f"{old}.norm.{leaf}"]
            out[f"{new}.to_out.0.{leaf}"] = matrix(state[f"{old}.proj_out.{leaf}"])
            rows = matrix(state[f"{old}.qkv.{leaf}"])
            if config.qkv_order == "head_major":
                rows = rows.reshape(heads, 3, channels // heads, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)
            for name, part in zip(("to_q", "to_k", "to_v"), rows.chunk(3), strict=True):
                out[f"{new}.{name}.{leaf}"] = part

    def copy(old, new):
        for leaf in ("weight", "bias"):
            if f"{old}.{leaf}" in state:
                out[f"{new}.{leaf}"] = state[f"{old}.{leaf}"]

    for old, new in (
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("label_emb", "class_embedding"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ):
        copy(old, new)
    levels, per = len(config.channel_mult), config.num_res_blocks + 1
    for level in range(levels):
        for j in range(config.num_res_blocks):
            block = f"input_blocks.{1 + level * per + j}"
            copy_resnet(f"{block}.0", f"down_blocks.{level}.resnets.{j}")
            if f"{block}.1.qkv.weight" in state:
                copy_attention(f"{block}.1", f"down_blocks.{level}.attentions.{j}")
        if level < levels - 1:
            down = f"input_blocks.{(level + 1) * per}.0"
            copy_resnet(down, f"down_blocks.{level}.downsamplers.0")
            copy(f"{down}.op", f"down_blocks.{level}.downsamplers.0.conv")
    copy_resnet("middle_block.0", "mid_block.resnets.0")
    copy_attention("middle_block.1", "mid_block.attentions.0")
    copy_resnet("middle_block.2", "mid_block.resnets.1")
    for level in range(levels):
        for j in range(per):
            block = f"output_blocks.{level * per + j}"
            copy_resnet(f"{block}.0", f"up_blocks.{level}.resnets.{j}")
            attended = f"{block}.1.qkv.weight" in state
            if attended:
                copy_attention(f"{block}.1", f"up_blocks.{level}.attentions.{j}")
            if j == per - 1 and level < levels - 1:
                up = f"{block}.{2 if attended else 1}"
                copy_resnet(up, f"up_blocks.{level}.upsamplers.0")
                copy(f"{up}.conv", f"up_blocks.{level}.upsamplers.0.conv")
    return out


# UNet2DModel has no weightless resampling and ties
# the embedding to the first level's width; its pipeline has 3 channels.
NOT_IN_DIFFUSERS = ("plain_pool", "widening_first_level", "one_channel")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in NOT_IN_DIFFUSERS])
def test_f_is_what_diffusers_computes(variant, adm, save):
    network = adm(**VARIANTS[variant])
    config = network.config
    unet = diffusers_unet(config)
    unet.load_state_dict(to_diffusers(network.state_dict(), config), strict=True)
    scheduler = CMStochasticIterativeScheduler(num_train_timesteps=40)
    pipeline = ConsistencyModelPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, config.in_channels, 16, 16, generator=torch.Generator().manual_seed(3))
    labels = None if config.num_classes is None else torch.tensor([0, config.num_classes - 1])
    expected = pipeline(
        batch_size=2, latents=noise.clone(), class_labels=labels, num_inference_steps=1, output_type="np"
    ).images

    model = load_checkpoint(save(network.state_dict()), told(config))
    graph = SamplerGraph(resolve(model, SampleRequest(batch=2)))
    with torch.no_grad():
        image = graph(noise, label=labels) if labels is not None else graph(noise)
    got = (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(got - expected).max() < 1e-5
    assert got.std() > 0.05  # Not a constant picture, which anything would match.


def test_two_steps_equal_diffusers_timesteps_22_0(adm, save, monkeypatch):
    network = adm(num_classes=5)
    unet = diffusers_unet(network.config)
    unet.load_state_dict(to_diffusers(network.state_dict(), network.config), strict=True)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(3, 3, 16, 16, generator=generator)
    renoise = torch.randn(1, 3, 3, 16, 16, generator=generator)
    labels = torch.tensor([0, 4, 2])
    pipeline = ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler(num_train_timesteps=40))
    pipeline.set_progress_bar_config(disable=True)
    drawn = iter([renoise[0], torch.zeros_like(noise)])  # The last draw is multiplied by exactly 0.
    module = sys.modules["diffusers.schedulers.scheduling_consistency_models"]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(drawn))
    expected = pipeline(
        batch_size=3,
        latents=noise.clone(),
        class_labels=labels,
        num_inference_steps=None,
        timesteps=[22, 0],
        output_type="np",
    ).images

    model = load_checkpoint(save(network.state_dict()), told(network.config))
    levels = karras_levels(model.noise, 40)
    graph = SamplerGraph(resolve(model, SampleRequest(sigmas=(levels[0], levels[22]), batch=3)))
    with torch.no_grad():
        image = graph(noise, renoise=renoise, label=labels)
    got = (image / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(got - expected).max() < 1e-5


configs = st.builds(
    AdmUnetConfig,
    image_size=st.just(64),
    model_channels=st.sampled_from([32, 64, 96]),
    channel_mult=st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple),
    num_res_blocks=st.integers(1, 4),
    attention_downsampling=st.sets(st.sampled_from([1, 2, 4, 8, 16])).map(lambda s: tuple(sorted(s))),
    in_channels=st.sampled_from([1, 3, 4]),
    num_classes=st.none() | st.integers(1, 1000),
    num_head_channels=st.just(32),
    use_scale_shift_norm=st.booleans(),
    resblock_updown=st.booleans(),
    conv_resample=st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(configs)
def test_architecture_is_inferred_from_shapes(config):
    levels = len(config.channel_mult)
    network = on_meta(lambda: AdmUnet(config))
    shape = infer_shape("x.pt", {key: value.shape for key, value in network.state_dict().items()})
    assert shape.model_channels == config.model_channels
    assert shape.channel_mult == config.channel_mult
    assert shape.num_res_blocks == config.num_res_blocks
    assert shape.attention_downsampling == tuple(f for f in config.attention_downsampling if f < 2**levels)
    assert (shape.in_channels, shape.num_classes) == (config.in_channels, config.num_classes)
    assert shape.use_scale_shift_norm == config.use_scale_shift_norm
    assert shape.resblock_updown == config.resblock_updown
    assert shape.conv_resample == (config.conv_resample or config.resblock_updown)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_inference_survives_any_missing_weights(data):
    network = on_meta(lambda: AdmUnet(AdmUnetConfig(32, 32, (1, 2), 1, (2,), num_head_channels=32)))
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    for key in data.draw(st.sets(st.sampled_from(sorted(shapes)), min_size=1, max_size=40)):
        del shapes[key]
    with contextlib.suppress(CheckpointError):  # Nothing else may come out.
        infer_shape("x.pt", shapes)


def test_released_imagenet_size(tmp_path):
    config = AdmUnetConfig(64, 192, (1, 2, 3, 4), 3, (2, 4, 8), num_classes=1000)
    shapes = {key: value.shape for key, value in on_meta(lambda: AdmUnet(config)).state_dict().items()}
    assert sum(shape.numel() for shape in shapes.values()) == 295_899_267
    assert infer_shape(tmp_path, shapes).attention_widths == (384, 576, 768)


def test_half_precision_and_prefix_and_entry(adm, save):
    network = adm()
    half = {f"module.{key}": value.half() for key, value in network.state_dict().items()}
    model = load_checkpoint(save({"model": {}, "ema": half, "step": 3}), told(network.config))
    shown = {setting.name: setting.value for setting in model.settings}
    assert (shown["prefix"], shown["entry"]) == ("module.", "ema")
    for key, value in network.state_dict().items():
        assert torch.equal(model.network.state_dict()[key], value.half().float())


def test_old_torch_format(adm, save):
    network = adm()
    path = save(network.state_dict(), _use_new_zipfile_serialization=False)
    model = load_checkpoint(path, told(network.config))
    assert all(torch.equal(model.network.state_dict()[k], v) for k, v in network.state_dict().items())


def test_guided_diffusion_1d_qkv(adm, save):
    network = adm(qkv_order="head_major")
    state = {
        k: v.squeeze(-1) if ".qkv.weight" in k or "proj_out.weight" in k else v for k, v in network.state_dict().items()
    }
    fields = told(network.config)
    del fields["qkv_order"]
    assert load_checkpoint(save(state), fields).network.config.qkv_order == "head_major"


def test_learned_variance_is_refused(adm, save):
    network = adm(out_channels=6)
    with pytest.raises(CheckpointError, match=r"model\.pt.*learn_sigma"):
        load_checkpoint(save(network.state_dict()))


@pytest.mark.parametrize(
    ("name", "levels", "size"),
    [
        ("cd_imagenet64_l2.pt", 40, 64),
        ("ct_imagenet64.pt", 201, 64),
        ("ct_bedroom256.pt", 151, 256),
        ("ct_cat256.pt", 151, 256),
        ("cd_bedroom256_lpips.pt", 40, 256),
        ("cm_cifar10.pt", 18, 32),
    ],
)
def test_released_names_give_their_constants(name, levels, size, adm, save):
    network = adm(num_head_channels=64, model_channels=64)
    model = load_checkpoint(save(network.state_dict(), name))
    assert (model.noise.levels, model.image_size) == (levels, size)
    assert (model.noise.sigma_min, model.noise.sigma_max, model.noise.sigma_data, model.noise.rho) == (
        0.002,
        80,
        0.5,
        7,
    )
    by_name = {setting.name: setting for setting in model.settings}
    assert not any(by_name[n].ambiguous for n in ("levels", "image_size", "num_head_channels", "qkv_order"))
    assert by_name["model_channels"].origin == "weights"


def test_unknown_names_mark_their_guesses(adm, save):
    model = load_checkpoint(save(adm(channel_mult=(2, 2)).state_dict(), "ema_0.9999_100000.pt"))
    ambiguous = {setting.name for setting in model.settings if setting.ambiguous}
    assert ambiguous == {"image_size", "num_head_channels", "qkv_order", "levels"}


def test_overrides_win_and_are_shown(adm, save):
    model = load_checkpoint(
        save(adm().state_dict(), "cd_imagenet64.pt"),
        {"image_size": "32", "levels": "7", "num_head_channels": "32", "sigma_max": "10", "clamp": "no"},
    )
    assert (model.image_size, model.noise.levels, model.noise.sigma_max, model.clamp) == (32, 7, 10.0, False)
    by_name = {setting.name: setting for setting in model.settings}
    assert by_name["levels"].origin == "--set levels"


def test_contradicting_the_weights_is_usage(adm, save):
    path = save(adm().state_dict())
    with pytest.raises(UsageError, match=r"use_scale_shift_norm.*contradicts"):
        load_checkpoint(path, {"use_scale_shift_norm": "false", "num_head_channels": "32"})
    with pytest.raises(UsageError, match=r"num_classes.*contradicts"):
        load_checkpoint(path, {"num_classes": "10", "num_head_channels": "32"})
    with pytest.raises(UsageError, match="does not divide"):
        load_checkpoint(path, {"num_head_channels": "48"})
    with pytest.raises(CheckpointError, match=r"33x33 .*\n.*multiples of 2: --set image_size=32"):
        load_checkpoint(path, {"num_head_channels": "32", "image_size": "33"})


@pytest.mark.parametrize(
    ("levels", "size", "said"),
    [
        (7, "128", None),
        (6, "96", None),
        (4, "36", "multiples of 8"),
        (3, "16x36", None),
        (3, "16x34", "image_size=16x32"),
    ],
)
def test_sizes_are_checked_against_the_halvings(levels, size, said, adm, save):
    network = adm(channel_mult=(1,) * levels, attention_downsampling=(2 ** (levels - 1),))
    path = save(network.state_dict())
    if said is None:
        space = load_checkpoint(path, {"num_head_channels": "32", "image_size": size}).space
        assert [str(space.height), str(space.width)] == size.split("x") * (2 if "x" not in size else 1)
        return
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path, {"num_head_channels": "32", "image_size": size})


def test_a_first_level_of_half_the_width_is_read(adm, save):
    """OpenAI's 512-pixel family, narrow: cm/script_util.py has channel_mult "0.5,1,1,2,2,4,4" for it."""
    fields = {"channel_mult": (0.5, 1, 1, 2, 2, 1, 1), "model_channels": 64, "attention_downsampling": (32, 64)}
    network = adm(image_size=128, **fields)
    model = load_checkpoint(
        save(network.state_dict()),
        {"image_size": "128", "num_head_channels": "32", "channel_mult": "0.5,1,1,2,2,1,1"},
    )
    assert model.network.config == network.config
    assert model.network.input_blocks[0][0].out_channels == 32


def test_a_rectangle_equals_diffusers_network(adm, save):
    network = adm(channel_mult=(1, 2, 2), attention_downsampling=(2, 4))
    config = network.config
    unet = diffusers_unet(config)
    unet.load_state_dict(to_diffusers(network.state_dict(), config), strict=True)
    model = load_checkpoint(save(network.state_dict()), {"image_size": "16x32", "num_head_channels": "32"})
    x = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    graph = SamplerGraph(resolve(model, SampleRequest(batch=2)))
    time = torch.tensor([250 * math.log(80.0)], dtype=torch.float64)
    with torch.no_grad():
        got, raw = graph(x), unet(x * 80 / (80.0**2 + 0.25) ** 0.5, time).sample
    near = 80 - 0.002
    expected = 0.25 / (near**2 + 0.25) * 80 * x + 0.5 * near / (80.0**2 + 0.25) ** 0.5 * raw
    assert (got - expected.clamp(-1, 1)).abs().max() < 1e-5


PASTED = {
    "num_channels": "32",
    "num_res_blocks": "1",
    "attention_resolutions": "8",
    "class_cond": "False",
    "learn_sigma": "False",
    "use_scale_shift_norm": "True",
    "resblock_updown": "True",
    "num_heads": "4",
    "num_head_channels": "32",
    "num_heads_upsample": "-1",
    "use_fp16": "True",
    "use_new_attention_order": "False",
    "dropout": "0.1",
    "use_checkpoint": "False",
    "weight_schedule": "uniform",
    "channel_mult": "",
}


def test_official_flags_pasted_whole(adm, save):
    """cm/unet.py: `if num_head_channels == -1: self.num_heads = num_heads`, else num_heads is not looked at."""
    network = adm(num_head_channels=32)
    model = load_checkpoint(save(network.state_dict()), PASTED)
    assert model.network.config == network.config
    # The picture size follows from the attention's: 8 pixels after one halving.
    assert model.image_size == 16
    assert {s.name for s in model.assumed} == {"qkv_order", "levels"}
    remarks = [s.remark for s in model.settings if s.remark]
    assert any("num_heads 4: not used, num_head_channels 32 wins" in r for r in remarks)
    assert any("use_fp16" in r for r in remarks)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"attention_resolutions": "16", "image_size": "16"}, r"at downsampling 1; the weights have it at 2"),
        ({"class_cond": "True"}, "contradicts"),
        ({"learn_sigma": "True"}, "contradicts"),
        ({"num_channels": "64"}, "contradicts"),
        ({"channel_mult": "", "image_size": "64"}, "means 1,2,3,4 at image_size 64"),
    ],
)
def test_official_flags_that_the_weights_contradict(flags, said, adm, save):
    with pytest.raises(UsageError, match=said):
        load_checkpoint(save(adm().state_dict()), {"num_head_channels": "32", **flags})


def test_heads_on_the_way_up(adm, save):
    """cm/unet.py gives num_heads_upsample to the attention of output_blocks; -1 stands for num_heads."""
    fields = {"channel_mult": (1, 1), "num_head_channels": -1, "num_heads": 2}
    network = adm(**fields, num_heads_upsample=4)
    told = {"image_size": "16", "num_heads": "2", "num_heads_upsample": "4"}
    loaded = load_checkpoint(save(network.state_dict()), told).network
    heads = {
        part: {b.heads for b in getattr(loaded, part).modules() if hasattr(b, "heads")}
        for part in ("input_blocks", "middle_block", "output_blocks")
    }
    assert heads == {"input_blocks": {2}, "middle_block": {2}, "output_blocks": {4}}
    same = load_checkpoint(save(network.state_dict()), {**told, "num_heads_upsample": "-1"})
    assert {b.heads for b in same.network.modules() if hasattr(b, "heads")} == {2}
    wide = load_checkpoint(save(network.state_dict()), {**told, "num_head_channels": "32"})
    assert {b.heads for b in wide.network.modules() if hasattr(b, "heads")} == {1}


@pytest.mark.parametrize(("mode", "precond"), [("consistency_distillation", "cm"), ("edm", "edm"), ("progdist", "edm")])
def test_training_mode_decides_as_in_image_sample(mode, precond, adm, save):
    """scripts/image_sample.py: `distillation = "consistency" in args.training_mode`."""
    fields = {"image_size": "16", "num_head_channels": "32", "training_mode": mode}
    assert load_checkpoint(save(adm().state_dict()), fields).preconditioning == precond


@pytest.mark.parametrize(("flag", "order"), [("True", "thirds"), ("False", "head_major")])
def test_new_attention_order_decides_for_guided_diffusion_only(flag, order, adm, save):
    network = adm(num_head_channels=16)
    state = network.state_dict()
    flags = {"image_size": "16", "num_head_channels": "16", "use_new_attention_order": flag}
    assert load_checkpoint(save(state), flags).network.config.qkv_order == "thirds"
    # guided-diffusion's attention is a 1-d convolution: rank 3.
    flat = {k: v.squeeze(-1) if k.endswith(("qkv.weight", "proj_out.weight")) else v for k, v in state.items()}
    model = load_checkpoint(save(flat), flags)
    assert model.network.config.qkv_order == order
    assert "qkv_order" not in {s.name for s in model.assumed}


def test_a_number_in_a_file_name_is_a_guess(adm, save):
    network = adm(channel_mult=(1, 1))
    model = load_checkpoint(save(network.state_dict(), "run_256.pt"), {"num_head_channels": "32"})
    assert model.image_size == 256
    assert "image_size" in {s.name for s in model.assumed}


def test_loading_needs_at_most_1_3_times_the_file(adm, save):
    network = adm(model_channels=192, channel_mult=(1, 2, 2), num_res_blocks=2, num_head_channels=64)
    path = save(network.state_dict(), "cd_imagenet64_x.pt")
    script = """
        import resource, sys, torch
        torch.set_num_threads(1)
        from cmexport.checkpoints import load_checkpoint
        from cmexport.demo import demo_checkpoint
        load_checkpoint(demo_checkpoint())  # imports and one-time buffers
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model = load_checkpoint(sys.argv[1])
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], capture_output=True, text=True, check=True
    )
    assert path.stat().st_size > 100e6
    # Activations of the boundary check, about 10 MB, do not shrink with the file as they would with ImageNet-64's.
    assert int(done.stdout) <= 1.3 * path.stat().st_size


@pytest.mark.parametrize("entry", ["args", "hyper_parameters"])
def test_options_in_the_weights_file_are_not_guessed(entry, adm, save):
    """A 28-pixel network of four heads: its file says so, and the code's own default would be another network."""
    network = adm(image_size=28, channel_mult=(1, 1), num_head_channels=-1, num_heads=4)
    options = {"num_heads": 4, "num_head_channels": -1, "image_size": 28, "lr": 1e-4, "sigma_data": 0.3, "rho": [7]}
    path = save({"model": network.state_dict(), entry: options, "step": 7})
    model = load_checkpoint(path)
    assert model.network.config == network.config
    assert model.noise.sigma_data == 0.3
    assert {s.name for s in model.assumed} == {"qkv_order", "levels"}
    assert load_checkpoint(path, {"image_size": "32", "num_heads": "2"}).network.config.num_heads == 2


def test_options_of_a_nested_table_and_of_other_kinds(adm, save):
    network = adm(num_head_channels=16)
    content = {"state_dict": network.state_dict(), "config": {"model": {"num_head_channels": 16}, "num_heads": [1, 2]}}
    model = load_checkpoint(save(content), {"image_size": "16"})
    assert model.network.config == network.config
