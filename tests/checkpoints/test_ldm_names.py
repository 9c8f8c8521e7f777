"""Names and configurations of Stable Diffusion's own files against diffusers' converters, tensor by tensor."""

from __future__ import annotations

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from support import single_files as made
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from cmexport.checkpoints import ldm_configs as configs
from cmexport.checkpoints import ldm_names as names
from cmexport.errors import CheckpointError

SIZES = {"sd15": made.SD15, "sd21": made.SD21, "sdxl": made.SDXL, "ssd-1b": made.SSD_1B, "bk-tiny": made.BK_TINY}


def taken(state, found):
    return {new: one.of(state[one.name]) for new, one in found.items()}


def same(found, expected):
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("kind", SIZES)
def test_unets_as_diffusers_converts_them(kind):
    state = made.filled(made.unet(SIZES[kind]))
    layout = names.unet_layout(state)
    config = configs.unet_config(state, layout)
    found = taken(state, names.unet_names(state, layout))
    expected = theirs.convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}, config
    )
    same(found, expected)
    assert len(found) == len(state)
    # All of it is a network of diffusers: names and shapes.
    with torch.device("meta"):
        network = diffusers.UNet2DConditionModel(**config, attention_head_dim=8)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in network.state_dict().items()}


# Published configurations: stable-diffusion-v1-5, -2-1, -xl-base-1.0, SSD-1B and bk-sdm-tiny, at a tenth of the width.
PUBLISHED = {
    "sd15": {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "layers_per_block": 2,
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "block_out_channels": [32, 64, 128, 128],
    },
    "sd21": {"use_linear_projection": True, "cross_attention_dim": 64, "layers_per_block": 2},
    "sdxl": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 3],
        "addition_embed_type": "text_time",
        "projection_class_embeddings_input_dim": 1600,
    },
    "ssd-1b": {
        "mid_block_type": "UNetMidBlock2D",
        "reverse_transformer_layers_per_block": [[4, 4, 5], [2, 1, 1], 1],
        "transformer_layers_per_block": [1, 2, 4],
    },
    "bk-tiny": {"mid_block_type": None, "layers_per_block": 1, "down_block_types": ["CrossAttnDownBlock2D"] * 3},
}


@pytest.mark.parametrize("kind", SIZES)
def test_configurations_as_published(kind):
    state = dict(made.unet(SIZES[kind]))
    shapes = {name: torch.empty(shape, device="meta") for name, shape in state.items()}
    config = configs.unet_config(shapes, names.unet_layout(shapes))
    assert {key: config[key] for key in PUBLISHED[kind]} == PUBLISHED[kind]
    assert ("reverse_transformer_layers_per_block" in config) == (kind == "ssd-1b")
    assert "time_cond_proj_dim" not in config


@pytest.mark.parametrize("name", ["time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"])
def test_embedded_guidance(name):
    state = made.filled(made.unet(made.UnetSizes(mults=(1, 2), depths=(1, 0))))
    state[name] = torch.randn(32, 16)
    layout = names.unet_layout(state)
    assert configs.unet_config(state, layout)["time_cond_proj_dim"] == 16
    assert names.unet_names(state, layout)["time_embedding.cond_proj.weight"].name == name


@pytest.mark.parametrize("sizes", [(32, (1, 2, 4, 4), 2), (32, (1, 2), 1)])
def test_autoencoders_as_diffusers_converts_them(sizes):
    state = made.filled(made.autoencoder(*sizes))
    config = configs.kl_config(state)
    found = taken(state, names.kl_names(state, names.vae_levels(state)))
    same(found, theirs.convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in state.items()}, config))
    with torch.device("meta"):
        network = diffusers.AutoencoderKL.from_config(config)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in network.state_dict().items()}


def text_model(config, *, projected=False):
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    with torch.device("meta"):
        return kind(CLIPTextConfig(**config, projection_dim=config["hidden_size"]))


def without_wrapper(state):
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(("layers", "used"), [(24, 23), (23, 23), (3, 3)])
def test_open_clip_of_stable_diffusion_2_without_its_last_layer(layers, used):
    state = made.filled(made.open_clip(layers=layers, words=100))
    assert configs.used_layers(state) == used
    config = configs.open_clip_config(state, used)
    found = taken(state, names.open_clip_names(state, used, projection=False))
    prefix = "cond_stage_model.model."
    model = text_model(config)
    expected = theirs.convert_open_clip_checkpoint(model, {prefix + k: v for k, v in state.items()}, prefix)
    expected = {k: v for k, v in without_wrapper(expected).items() if k != "text_projection.weight"}
    same(found, expected)
    shapes = {k: v.shape for k, v in without_wrapper(model.state_dict()).items()}
    assert {k: v.shape for k, v in found.items()} == shapes
    assert config["hidden_act"] == "gelu"


def test_open_clip_of_sdxl_with_its_projection():
    state = made.filled(made.open_clip(layers=3, words=100))
    config = configs.open_clip_config(state, 3)
    found = taken(state, names.open_clip_names(state, 3, projection=True))
    prefix = "conditioner.embedders.1.model."
    model = text_model(config, projected=True)
    expected = theirs.convert_open_clip_checkpoint(model, {prefix + k: v for k, v in state.items()}, prefix)
    same(found, without_wrapper(expected))
    assert not torch.equal(found["text_projection.weight"], state["text_projection"])


@pytest.mark.parametrize("wrapped", [True, False])
def test_clip_with_and_without_its_wrapper(wrapped):
    state = made.filled(made.clip(words=100))
    given = state if wrapped else without_wrapper(state)
    found = taken(given, names.clip_names(given))
    same(
        found,
        without_wrapper(
            theirs.convert_ldm_clip_checkpoint({f"cond_stage_model.transformer.{k}": v for k, v in state.items()})
        ),
    )
    config = configs.clip_config(found)
    assert (config["num_hidden_layers"], config["hidden_act"], config["num_attention_heads"]) == (2, "quick_gelu", 1)
    model = without_wrapper(text_model(config).state_dict())
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in model.items()}


def shapes_of(sizes):
    return {name: torch.empty(shape, device="meta") for name, shape in made.unet(sizes)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: not n.startswith("input_blocks.4."), "its input_blocks have gaps: 1, 2, 3, 5"),
        (lambda n: not n.startswith("output_blocks."), "its output_blocks have gaps: there are none"),
        (lambda n: n.split(".")[-2] != "conv", "4 levels on the way down and 1 on the way up"),
        (lambda n: not n.startswith("middle_block.0"), "its middle_block is attention, resnet"),
        (lambda n: not n.startswith("input_blocks.2.1."), "attention in some blocks of a level only"),
        (lambda n: not n.startswith("output_blocks.11."), "no block more on the way up"),
        (lambda n: "transformer_blocks" not in n and "middle" not in n, "no attention to a text"),
        (lambda n: n != "out.2.weight", "lacks out.2.weight"),
    ],
)
def test_layouts_that_no_network_has(change, message):
    state = {name: tensor for name, tensor in shapes_of(made.SD15).items() if change(name)}
    with pytest.raises(CheckpointError, match=message):
        configs.unet_config(state, names.unet_layout(state))


def test_another_depth_in_the_middle_than_before_it():
    state = shapes_of(made.UnetSizes(mults=(1, 2, 4), depths=(0, 2, 3), middle=2))
    with pytest.raises(CheckpointError, match="2 layers in the middle and 3 before it"):
        configs.unet_config(state, names.unet_layout(state))


def test_what_cannot_be_taken():
    with pytest.raises(CheckpointError, match="no query, key and value above each other"):
        names.Taken("qkv", third=1).of(torch.zeros(7, 3))
    with pytest.raises(CheckpointError, match="no matrix"):
        names.Taken("text_projection", transposed=True).of(torch.zeros(3))
    with pytest.raises(CheckpointError, match="100 wide, no multiple of CLIP's heads of 64"):
        configs.clip_config(without_wrapper(made.filled(made.clip(width=100, words=10))))
