"""Names in `sgm` of Stable Diffusion's own layers, as its files have them."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from cmexport.checkpoints.lora.layers import Layers, sgm_names

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
XL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def layers():
    """Of Stable Diffusion 1 and XL."""
    with torch.device("meta"):
        networks = {"sd1": UNet2DConditionModel(**SD1), "xl": UNet2DConditionModel(**XL)}
    return {name: Layers.of(network.state_dict()) for name, network in networks.items()}


# Looked up in the two checkpoints' published lists of keys (CompVis v1-inference, Stability's sd_xl_base).
@pytest.mark.parametrize(
    ("model", "sgm", "ours"),
    [
        ("sd1", "input_blocks.0.0", "conv_in"),
        (
            "sd1",
            "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("sd1", "input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("sd1", "input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("sd1", "input_blocks.8.1.proj_in", "down_blocks.2.attentions.1.proj_in"),
        ("sd1", "input_blocks.11.0.out_layers.3", "down_blocks.3.resnets.1.conv2"),
        ("sd1", "middle_block.0.emb_layers.1", "mid_block.resnets.0.time_emb_proj"),
        ("sd1", "middle_block.1.proj_out", "mid_block.attentions.0.proj_out"),
        ("sd1", "middle_block.2.in_layers.2", "mid_block.resnets.1.conv1"),
        ("sd1", "output_blocks.0.0.in_layers.2", "up_blocks.0.resnets.0.conv1"),
        ("sd1", "output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),
        ("sd1", "output_blocks.5.2.conv", "up_blocks.1.upsamplers.0.conv"),
        (
            "sd1",
            "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj",
            "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
        ),
        ("sd1", "time_embed.2", "time_embedding.linear_2"),
        ("sd1", "out.2", "conv_out"),
        (
            "xl",
            "input_blocks.4.1.transformer_blocks.1.attn2.to_k",
            "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
        ),
        (
            "xl",
            "input_blocks.7.1.transformer_blocks.9.ff.net.2",
            "down_blocks.2.attentions.0.transformer_blocks.9.ff.net.2",
        ),
        ("xl", "input_blocks.8.0.in_layers.2", "down_blocks.2.resnets.1.conv1"),
        ("xl", "output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
        ("xl", "output_blocks.8.0.skip_connection", "up_blocks.2.resnets.2.conv_shortcut"),
        ("xl", "label_emb.0.2", "add_embedding.linear_2"),
    ],
)
def test_published_names(model, sgm, ours, layers):
    assert layers[model].flat_sgm(sgm.replace(".", "_")) == ours
    assert layers[model].flat(ours.replace(".", "_")) == ours


@pytest.mark.parametrize("model", ["sd1", "xl"])
def test_every_layer_has_one_name_of_its_own(model, layers):
    names = list(layers[model].shapes)
    spelled = sgm_names(names)
    assert set(spelled) == set(names)
    for of in (list(spelled.values()), names):
        assert len({name.replace(".", "_") for name in of}) == len(names)


def test_norms_and_unknown_names_are_no_layers():
    found = Layers.of(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)).state_dict())
    assert set(found.shapes) == {"0"}
    assert found.dotted("1") is found.flat("2") is found.flat_sgm("0") is None
