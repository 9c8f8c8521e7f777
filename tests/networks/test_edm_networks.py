"""Resampling with fixed filters, and building without memory."""

import pytest
import torch
import torch.nn.functional as F

from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig
from cmexport.networks.edm_blocks import ResampledConv, positional_embedding
from cmexport.networks.meta import on_meta


@pytest.mark.parametrize("taps", [(1.0, 1.0), (1.0, 3.0, 3.0, 1.0)])
@pytest.mark.parametrize("resample", ["down", "up"])
def test_resampling_is_a_depthwise_convolution(taps, resample):
    """The published networks tile the filter over the channels; [1, 1] may take the short way only if it is equal."""
    x = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    row = torch.tensor(taps)
    square = (torch.outer(row, row) / row.sum() ** 2).tile(5, 1, 1, 1)
    pad = (len(taps) - 1) // 2
    if resample == "down":
        expected = F.conv2d(x, square, groups=5, stride=2, padding=pad)
    else:
        expected = F.conv_transpose2d(x, 4 * square, groups=5, stride=2, padding=pad)
    got = ResampledConv(5, 5, 0, resample, taps)(x)
    assert got.shape[-1] == (4 if resample == "down" else 16)
    assert torch.allclose(got, expected, atol=1e-6)


def test_positional_embedding_ends():
    embedding = positional_embedding(torch.tensor([1.0], dtype=torch.float64), 8, endpoint=True)
    assert embedding[0, 3] == pytest.approx(torch.cos(torch.tensor(1e-4, dtype=torch.float64)).item())
    without = positional_embedding(torch.tensor([1.0], dtype=torch.float64), 8, endpoint=False)
    assert without[0, 7] == pytest.approx(torch.sin(torch.tensor(1e-3, dtype=torch.float64)).item())


def test_building_on_meta_takes_no_memory():
    network = on_meta(lambda: AdmUnet(AdmUnetConfig(64, 192, (1, 2, 3, 4), 3, (2, 4, 8), num_classes=1000)))
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == 295_899_267


def test_outside_the_builder_initialization_is_random():
    on_meta(lambda: AdmUnet(AdmUnetConfig(8, 32, (1,), 1, ())))
    assert AdmUnet(AdmUnetConfig(8, 32, (1,), 1, (), num_classes=2)).label_emb.weight.std() > 0.1
