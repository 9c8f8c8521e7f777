"""Files that are not what they should be: each ends in one sentence with the file's name, and none runs code."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError


@pytest.fixture
def state(adm):
    return dict(adm().state_dict())


def refused(path, *patterns):
    """Assert that loading fails with a sentence naming the file and every given pattern."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert Path(path).name in message
    for pattern in patterns:
        assert pattern in message, message
    assert len(message.splitlines()) <= 3
    assert caught.value.exit_code == 3


def test_missing_empty_folder_text(tmp_path):
    refused(tmp_path / "absent.pt", "no such file")
    refused(tmp_path, "folder")
    (tmp_path / "empty.pt").write_bytes(b"")
    refused(tmp_path / "empty.pt", "empty")
    (tmp_path / "text.pt").write_text("These are not the weights you are looking for.\n" * 9)
    refused(tmp_path / "text.pt", "no checkpoint")
    (tmp_path / "html.pt").write_text("<!DOCTYPE html><html>Google Drive - Virus scan warning</html>")
    refused(tmp_path / "html.pt", "no checkpoint")


def test_unreadable(tmp_path):
    # A link to itself: unlike permissions, it stops every user.
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    refused(tmp_path / "loop.pt", "can't be read")


@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_truncated(percent, save, state):
    path = save(state)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    refused(path)


def test_wrong_content(save, state):
    refused(save([1, 2], "list.pt"), "list")
    refused(save({}, "nothing.pt"), "no state dict")
    refused(save({"epoch": 3, "args": "x"}, "strange.pt"), "no state dict", "epoch")
    refused(save(torch.zeros(3), "tensor.pt"), "Tensor")
    other = {f"layer{i}.weight": torch.zeros(4, 4) for i in range(5)}
    refused(save(other, "other.pt"), "another model", "layer0.weight")


def test_optimizer(save, adm):
    network = adm().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters())
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    refused(save(optimizer.state_dict(), "opt100000.pt"), "optimizer", "ema_")


def test_missing_extra_shape(save, state):
    key = "output_blocks.1.0.out_layers.3.weight"
    refused(save({k: v for k, v in state.items() if k != key}), "missing", key)
    refused(save({k: v for k, v in state.items() if not k.startswith("middle")}), "middle_block")
    refused(save({**state, "middle_block.1.attention.bias": torch.zeros(3)}), "more than", "attention.bias")
    refused(save({**state, key: state[key][..., :1]}), key, "shape (64, 64, 3, 1)")
    refused(save({**state, "input_blocks.1.0.in_layers.0.bias": torch.zeros(64)}), "shape (64,)", "(32,)")
    refused(save({**state, "out.0.bias": torch.zeros(32, dtype=torch.int64)}), "out.0.bias", "int64")
    refused(save({**state, "label_emb.weight": torch.zeros(10, 100)}), "label_emb.weight", "(10, 100)")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_not_finite(value, dtype, save, state):
    state = {k: v.to(dtype) for k, v in state.items()}
    state["out.2.weight"][1, 2, 0, 1] = value
    refused(save(state), "out.2.weight", "NaN")


class Bomb:
    """Pickles into a call that leaves a file behind if anything runs it."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (exec, (f"open({self.marker!r}, 'w').write('ran')",))


class Shell:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",))


@pytest.mark.parametrize("kind", [Bomb, Shell])
@pytest.mark.parametrize("place", ["whole", "beside the weights", "inside a list", "old torch format", "plain pickle"])
def test_code_in_pickles_does_not_run(kind, place, tmp_path, save, state):
    marker = tmp_path / "ran"
    bomb = kind(marker)
    if place == "whole":
        path = save(bomb)
    elif place == "beside the weights":
        path = save({**state, "zzz": bomb})
    elif place == "inside a list":
        path = save({"model": state, "extra": [[bomb]]})
    elif place == "old torch format":
        path = save({**state, "zzz": bomb}, _use_new_zipfile_serialization=False)
    else:
        path = tmp_path / "model.pt"
        path.write_bytes(pickle.dumps({"a": bomb}))
    name = "exec" if kind is Bomb else "system"
    refused(path, name, "nothing was run")
    assert not marker.exists()
    # The same file does run under Python's own unpickler: the test would notice.
    torch.load(path, weights_only=False) if place != "plain pickle" else pickle.loads(path.read_bytes())
    assert marker.exists()


def test_every_import_is_reported(save, state, tmp_path):
    refused(save({**state, "a": Bomb(tmp_path / "m"), "b": Shell(tmp_path / "m"), "c": Path("x")}), "exec", "system")


def rewrite(path, change):
    """Rewrite a torch zip record by record; `change(name, data)` returns (data, compression)."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in records.items():
            data, compression = change(name, data)
            new.writestr(name, data, compression)
    return path


def test_compressed_bomb(save, state):
    def zeros(name, data):
        return (b"\0" * 200_000_000, zipfile.ZIP_DEFLATED) if name.endswith("data/3") else (data, zipfile.ZIP_STORED)

    path = rewrite(save(state), zeros)
    assert path.stat().st_size < 5_000_000
    refused(path, "claims more bytes")


def test_recompressed(save, state):
    refused(rewrite(save(state), lambda name, data: (data, zipfile.ZIP_DEFLATED)), "model.pt")


def test_flipped_weight_is_noticed(save, state):
    path = save(state)
    data = bytearray(path.read_bytes())
    at = data.find(state["out.2.weight"].numpy().tobytes()[:64])
    assert at > 0
    data[at + 17] ^= 0x40
    path.write_bytes(data)
    refused(path, "checksum")


def test_lying_storage_size(save, state):
    """A pickle that declares more elements than its record holds must not make anyone allocate them."""

    def lie(name, data):
        if name.endswith("data.pkl"):
            size = state["out.2.bias"].numel()
            assert size == 3
            data = data.replace(b"K\x03tq", b"J" + struct.pack("<i", 2**31 - 1) + b"tq", 1)
        return data, zipfile.ZIP_STORED

    refused(rewrite(save(state), lie), "model.pt")


def test_stretched_tensor(save, state):
    """A stride of 0 lets 4 bytes pose as a terabyte."""
    huge = torch.zeros(1).expand(1_000_000, 1_000_000)
    refused(save({**state, "out.0.bias": huge}), "does not fit")


def test_other_zips_and_torchscript(tmp_path):
    path = tmp_path / "photos.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    refused(path, "torch.save did not write it")
    scripted = torch.jit.script(torch.nn.Linear(2, 2))
    scripted.save(str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt", "TorchScript")


def test_whole_module_needs_trust(save, adm, tmp_path):
    network = adm()
    path = save(network)
    refused(path, "AdmUnet", "--trust-checkpoint")
    model = load_checkpoint(path, {"num_head_channels": "32"}, trust=True)
    assert model.network.config.model_channels == 32
    (tmp_path / "junk.pt").write_bytes(b"\x80\x04junk")
    with pytest.raises(CheckpointError, match=r"junk\.pt"):
        load_checkpoint(tmp_path / "junk.pt", trust=True)


def test_namespace_beside_the_weights_is_harmless(save, state):
    import argparse

    path = save({"model": state, "args": argparse.Namespace(lr=1e-4)})
    assert load_checkpoint(path, {"num_head_channels": "32"}).parameters > 0


def test_hash_bomb_as_key(tmp_path, save, state):
    """A key of 60 nested pairs of itself takes 2^60 steps to hash; the reader must not try."""
    nested = b"K\x01" + b"2\x86" * 60  # 1, then sixty times: duplicate, pair.
    evil = b"\x80\x02}" + nested + b"K\x00s."

    def plant(name, data):
        return (evil if name.endswith("data.pkl") else data), zipfile.ZIP_STORED

    refused(rewrite(save(state), plant), "key")


def test_saved_from_memory(adm, tmp_path):
    """A file-like target leaves another root folder inside the archive."""
    buffer = io.BytesIO()
    torch.save(adm().state_dict(), buffer)
    path = tmp_path / "x.pt"
    path.write_bytes(buffer.getvalue())
    assert load_checkpoint(path, {"num_head_channels": "32"}).parameters > 0


def test_one_network_of_two(save, state):
    both = {f"online_model.{k}": torch.zeros_like(v) for k, v in state.items()}
    both |= {f"ema_model.{k}": v for k, v in state.items()}
    model = load_checkpoint(save(both), {"num_head_channels": "32"})
    assert torch.equal(model.network.state_dict()["out.2.weight"], state["out.2.weight"])
    mixed = {f"module.{k}": v for k, v in state.items()} | {"head.bias": torch.zeros(3)}
    refused(save(mixed), "module.", "head.bias", "--weights module")
