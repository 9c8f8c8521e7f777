"""safetensors files, alone and with a cmexport.toml beside them."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError


@pytest.fixture
def weights(adm, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file(adm(num_head_channels=16).state_dict(), path)
    return path


def test_sidecar_supplies_what_weights_cannot_tell(weights, adm):
    (weights.parent / "cmexport.toml").write_text(
        '[network]\nname = "adm_unet"\nnum_head_channels = 16\nimage_size = 16\nchannel_mult = [1, 2]\n'
        "[set]\nsigma_max = 10.0\nclamp = false\n"
    )
    model = load_checkpoint(weights)
    assert model.network.config == adm(num_head_channels=16).config
    assert (model.noise.sigma_max, model.clamp) == (10.0, False)
    assert {s.name: s.origin for s in model.settings}["sigma_max"] == "cmexport.toml"
    assert load_checkpoint(weights, {"sigma_max": "20"}).noise.sigma_max == 20.0
    assert model.source.format == "openai (safetensors)"


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("[network]\nname = 'song_unet'", CheckpointError, "song_unet"),
        ("[set", CheckpointError, "not valid TOML"),
        ("set = 3", CheckpointError, "table"),
        ("[set]\nsigma_mx = 3", UsageError, "did you mean 'sigma_max'"),
        ("[network]\nmodel_channels = 64", UsageError, "contradicts"),
        ("[set]\nnum_classes = 64", UsageError, "contradicts"),
    ],
)
def test_bad_sidecars(text, error, reason, weights):
    weights.with_suffix(".toml").write_text(text)
    with pytest.raises(error, match=reason):
        load_checkpoint(weights)


def test_a_project_file_for_another_checkpoint_is_ignored(weights):
    (weights.parent / "cmexport.toml").write_text('checkpoint = "other.pt"\n[set]\nsigma_max = 10\n')
    assert load_checkpoint(weights, {"num_head_channels": "16"}).noise.sigma_max == 80.0


def with_header(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, b"1234", None),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4 * 10**12]}}, b"1234", None),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234", 2**62),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234", 90_000_000),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234", None),
        ({"a": {"dtype": "Q99", "shape": [1], "data_offsets": [0, 4]}}, b"1234", None),
        ({"a": [1, 2]}, b"", None),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678", None),
        (b'{"a":' + b"[" * 200_000, b"", None),
        (b"{\xff", b"", None),
    ],
)
def test_lying_headers(header, data, length, tmp_path):
    path = with_header(tmp_path / "liar.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match=r"liar\.safetensors"):
        load_checkpoint(path)


def test_metadata_is_never_interpreted(adm, tmp_path):
    """A pickle hidden in the metadata stays text."""
    marker = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {marker}'\ntR."
    save_file(adm().state_dict(), tmp_path / "x.safetensors", metadata={"pickle": evil, "__reduce__": evil})
    assert load_checkpoint(tmp_path / "x.safetensors", {"num_head_channels": "32"}).parameters > 0
    assert not marker.exists()


def test_safetensors_of_another_model(tmp_path):
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(4, 4)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="LoRA"):
        load_checkpoint(tmp_path / "lora.safetensors")
    save_file(
        {
            "time_embedding.linear_1.weight": torch.zeros(4, 4),
            "conv_in.weight": torch.zeros(1),
            "conv_out.weight": torch.zeros(1),
        },
        tmp_path / "u.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(tmp_path / "u.safetensors")
