"""Networks of diffusers without weights, filled from files; what damaged ones are refused with."""

from __future__ import annotations

import weakref
from pathlib import Path

import diffusers
import pytest
import torch

from cmexport.checkpoints import reading
from cmexport.checkpoints.diffusers_networks import fields_of, filled, read_flat_state, renamed, without_weights
from cmexport.checkpoints.reading import file_facts
from cmexport.errors import CheckpointError

CONFIG = Path("vae/config.json")
TINY = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8), "num_decoder_blocks": (1, 1)}


def test_a_network_takes_memory_only_when_it_is_filled():
    given = diffusers.AutoencoderTiny(**TINY, num_encoder_blocks=(1, 1)).state_dict()
    network = without_weights("AutoencoderTiny", CONFIG, {**TINY, "num_encoder_blocks": (1, 1), "unknown": 3})
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    network = filled(network, CONFIG, given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(CheckpointError, match=r"vae/config\.json"):
        filled(network, CONFIG, dict(list(given.items())[1:]))


def test_a_large_model_is_never_there_in_two_precisions(monkeypatch):
    """Half precision leaves weight by weight as it is widened, where the caller keeps none of it."""
    fields = {**TINY, "num_encoder_blocks": (1, 1)}
    halves = {k: v.half() for k, v in diffusers.AutoencoderTiny(**fields).state_dict().items()}
    alive = [weakref.ref(tensor) for tensor in halves.values()]
    left, finite = [], reading.finite

    def watched(path, key, tensor):
        left.append(sum(ref() is not None for ref in alive))
        return finite(path, key, tensor)

    monkeypatch.setattr(reading, "finite", watched)
    handed = [halves]
    del halves
    filled(without_weights("AutoencoderTiny", CONFIG, fields), CONFIG, handed.pop())
    assert len(left) == len(alive)
    # The one that is being widened, at most, besides those whose turn has not come.
    assert all(found <= len(alive) - index for index, found in enumerate(left))


def test_a_configuration_that_builds_nothing_is_refused():
    assert "scaling_factor" in fields_of("AutoencoderTiny", CONFIG)
    with pytest.raises(CheckpointError, match=r"vae/config\.json: describes no AutoencoderTiny \("):
        without_weights("AutoencoderTiny", CONFIG, {"num_encoder_blocks": "many"})


def test_old_names_of_attention_are_todays():
    old = {f"mid.attentions.0.{part}.weight": torch.zeros(1) for part in ("query", "key", "value", "proj_attn")}
    assert [*renamed({**old, "mid.query": torch.zeros(1)})] == [
        *(f"mid.attentions.0.{part}.weight" for part in ("to_q", "to_k", "to_v", "to_out.0")),
        "mid.query",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"a": torch.zeros(1)}}, "no state dict"),
        ([torch.zeros(1)], "no state dict"),
        (b"PK", "did not write"),
    ],
)
def test_only_tensors_by_name_are_weights(content, said, tmp_path):
    path = tmp_path / "diffusion_pytorch_model.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=said):
        read_flat_state(file_facts(path))
    torch.save({"a": torch.ones(2)}, path)
    assert read_flat_state(file_facts(path))["a"].tolist() == [1.0, 1.0]
