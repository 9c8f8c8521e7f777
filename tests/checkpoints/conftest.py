"""Small random networks and the files that training code would leave of them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def random_weights(network, seed=0):
    """Every weight random, norms and biases too: default initialization hides swapped or ignored tensors."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        spread = 0.3 if tensor.dim() == 1 else 0.8 / max(tensor[0].numel(), 1) ** 0.5
        center = 1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0
        tensor.copy_(center + spread * torch.randn(tensor.shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture
def adm():
    """A function: a small random ADM UNet, from fields of its configuration."""

    def build(seed=0, **fields):
        defaults = {
            "image_size": 16,
            "model_channels": 32,
            "channel_mult": (1, 2),
            "num_res_blocks": 1,
            "attention_downsampling": (2,),
            "num_head_channels": 32,
        }
        return random_weights(AdmUnet(AdmUnetConfig(**{**defaults, **fields})), seed)

    return build


@pytest.fixture
def save(tmp_path):
    """A function: writes a state dict as OpenAI's code does and returns the path."""

    def write(content, name="model.pt", **kwargs):
        path = tmp_path / name
        torch.save(content, path, **kwargs)
        return path

    return write
