"""Fixtures of `quality` and `tuning`: a checkpoint small enough to be sampled often, a ruler file of random weights."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from support.networks import noisy_checkpoint

from cmexport.quality.ruler import Ruler

OVERRIDES = (("image_size", "8"), ("num_head_channels", "32"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return noisy_checkpoint(tmp_path_factory.mktemp("tuning") / "tiny.pt")


@pytest.fixture(scope="session")
def ruler_file(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("ruler") / "ruler.pt"
    state = {k: v.half() if v.is_floating_point() else v for k, v in Ruler().state_dict().items()}
    mean, root = torch.rand(256).double(), torch.randn(256, 256).double() / 16
    torch.save({**state, "_mu": mean, "_cov": root @ root.T}, path)
    return path
