"""The rivals run our network: diffusers' UNet2DModel with converted weights gives the same numbers."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DModel

from benchmarks.harness.diffusers_unet import unet_arguments, unet_state
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig

BASE = {"image_size": 16, "model_channels": 32, "num_head_channels": 16}
VARIANTS = {
    "labels, scale-shift": AdmUnetConfig(
        **BASE, channel_mult=(1, 2), num_res_blocks=1, attention_downsampling=(2,), num_classes=3
    ),
    "no labels, added embedding, attention on top": AdmUnetConfig(
        **BASE, channel_mult=(1, 1, 2), num_res_blocks=2, attention_downsampling=(1, 4), use_scale_shift_norm=False
    ),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_converted_weights_give_the_same_output(config):
    torch.manual_seed(0)
    ours = AdmUnet(config).eval()
    for parameter in ours.parameters():  # norms start as the identity, which would hide a swap
        parameter.data += 0.05 * torch.randn_like(parameter)
    unet = UNet2DModel(**unet_arguments(config)).eval()
    unet.load_state_dict(unet_state(config, ours.state_dict()), strict=True)
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([12.5])
    label = None if config.num_classes is None else torch.tensor([2, 0])
    with torch.no_grad():
        expected = unet(x, time, label).sample
        found = ours(x, time.double()) if label is None else ours(x, time.double(), label)
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("change", [{"resblock_updown": False}, {"qkv_order": "head_major"}, {"num_head_channels": -1}])
def test_variants_that_diffusers_lacks_are_refused(change):
    fields = {**BASE, "channel_mult": (1,), "num_res_blocks": 1, "attention_downsampling": (1,), **change}
    with pytest.raises(ValueError, match="UNet2DModel"):
        unet_arguments(AdmUnetConfig(**fields))
