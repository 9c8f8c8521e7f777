"""A family of checkpoints is one module and one line in the registry: it is exported, verified and sampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cmexport.checkpoints import load_checkpoint, sniff
from cmexport.checkpoints.assembling import assemble
from cmexport.checkpoints.settings import OPENAI, resolve_sampling
from cmexport.checkpoints.sniff import StateFormat
from cmexport.cli.main import main
from cmexport.errors import CheckpointError
from cmexport.model import CheckpointSource, Space


class Wave(nn.Module):
    """The toy's network."""

    def __init__(self):
        super().__init__()
        self.crest = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, c_noise):
        return torch.tanh(self.crest(x)) * torch.cos(c_noise.to(x.dtype)).view(-1, 1, 1, 1)


def build(weights, settings):
    network = Wave()
    network.load_state_dict(dict(weights.tensors))
    return assemble(
        network=network,
        architecture={"name": "wave"},
        space=Space(3, 8, 8),
        classes=None,
        constants=resolve_sampling(settings, OPENAI, {}),
        source=CheckpointSource(weights.file.path, "wave", weights.file.sha256, weights.file.size_bytes),
        settings=settings.finish(),
    )


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    family = StateFormat("wave", "waves", "crest.weight", ("crest.bias",), f"{__name__}:build")
    monkeypatch.setitem(sniff.FAMILIES, "wave", family)
    torch.manual_seed(0)
    torch.save({"ema": {f"net.{k}": v for k, v in Wave().state_dict().items()}}, tmp_path / "sea.pt")
    return tmp_path / "sea.pt"


def test_it_is_loaded_with_what_all_families_have(checkpoint):
    model = load_checkpoint(checkpoint, {"sigma_max": "40"})
    assert (model.source.format, model.noise.sigma_max) == ("wave", 40.0)
    assert {"entry", "prefix"} <= {setting.name for setting in model.settings}


def test_it_is_exported_verified_and_drawn(checkpoint, tmp_path):
    arguments = ["onnx", checkpoint, "-o", tmp_path / "out", "--seeds", 8]
    assert main([str(a) for a in arguments]) == 0
    folder = str(tmp_path / "out" / "sea-onnx-fp32")
    assert main(["verify", folder, "--seeds", "8"]) == 0
    assert (
        main(["sample", folder, "--count", "2", "--save", str(tmp_path / "x.npz"), "-o", str(tmp_path / "x.png")]) == 0
    )
    assert np.load(tmp_path / "x.npz")["image"].shape == (2, 3, 8, 8)


def test_refusals_name_it(checkpoint, tmp_path):
    torch.save({"foreign": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="diffusers UNet2DModel, waves"):
        load_checkpoint(tmp_path / "other.pt")
