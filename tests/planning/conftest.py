"""A checkpoint whose layers take seconds to score."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig

OVERRIDES = (("image_size", "8"), ("num_head_channels", "32"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    config = AdmUnetConfig(
        image_size=8,
        model_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_downsampling=(2,),
        num_classes=3,
        num_head_channels=32,
    )
    path = tmp_path_factory.mktemp("planning") / "tiny.pt"
    torch.save({k: v + 0.05 * torch.randn(v.shape) for k, v in AdmUnet(config).state_dict().items()}, path)
    return path
