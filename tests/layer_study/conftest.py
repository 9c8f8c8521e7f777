"""A checkpoint whose layers take seconds to score."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from support.networks import noisy_checkpoint

OVERRIDES = (("image_size", "8"), ("num_head_channels", "32"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return noisy_checkpoint(tmp_path_factory.mktemp("planning") / "tiny.pt")
