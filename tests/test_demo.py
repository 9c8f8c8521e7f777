"""The packaged demo model: the file is what its card says, and the package's own network takes it strictly."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch

import cmexport.demo
from cmexport.demo import demo_checkpoint
from cmexport.errors import CheckpointError
from cmexport.networks.adm_unet import AdmUnet, AdmUnetConfig


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return torch.load(demo_checkpoint(), weights_only=True, mmap=True)


def test_it_is_a_plain_dict_of_half_precision_tensors(state):
    assert type(state) is dict
    assert {v.dtype for v in state.values()} == {torch.float16}
    assert all(bool(torch.isfinite(v).all()) for v in state.values())
    assert len(state) == 307
    assert sum(v.numel() for v in state.values()) == 7_995_011


def test_the_keys_are_openais_and_fill_the_network_exactly(state):
    config = AdmUnetConfig(
        image_size=32,
        model_channels=64,
        channel_mult=(1, 2, 2),
        num_res_blocks=2,
        attention_downsampling=(2, 4),
        num_classes=10,
    )
    with torch.device("meta"):
        network = AdmUnet(config)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in state.items()}


def test_the_card_states_size_and_hash_of_the_file():
    data = demo_checkpoint().read_bytes()
    card = (demo_checkpoint().parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{len(data):,} bytes" in card
    assert re.findall(r"`([0-9a-f]{64})`", card) == [hashlib.sha256(data).hexdigest()]


def test_a_damaged_installation_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(cmexport.demo, "files", lambda _: tmp_path)
    with pytest.raises(CheckpointError, match="reinstall cmexport") as caught:
        demo_checkpoint()
    assert caught.value.exit_code == 3
