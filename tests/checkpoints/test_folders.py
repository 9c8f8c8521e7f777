"""Folders as diffusers, accelerate and training scripts leave them; the oracle is the network that was saved."""

import json

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError

FIELDS = {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 32,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet(seed):
    torch.manual_seed(seed)
    return UNet2DModel(**FIELDS).eval()


@pytest.fixture(scope="module")
def raw():
    return unet(1)


@pytest.fixture(scope="module")
def averaged():
    return unet(2)


def holds(model, network):
    mine, theirs = model.network.unet.state_dict(), network.state_dict()
    return set(mine) == set(theirs) and all(torch.equal(mine[k], v.float()) for k, v in theirs.items())


def weights_of(model):
    return next((s for s in model.settings if s.name == "weights"), None)


def half(network, dtype=torch.float16):
    other = unet(0).to(dtype)
    other.load_state_dict(network.state_dict())
    return other


@pytest.fixture
def training(tmp_path, raw, averaged):
    """What diffusers' training scripts leave: unet/ and unet_ema/, the latter by EMAModel itself."""
    raw.save_pretrained(tmp_path / "unet")
    ema = EMAModel(raw.parameters(), decay=0.9, model_cls=UNet2DModel, model_config=raw.config)
    ema.shadow_params = [p.detach().clone() for p in averaged.parameters()]
    ema.optimization_step = 1_250_000
    ema.update_after_step = 200_000
    ema.save_pretrained(tmp_path / "unet_ema")
    return tmp_path


def test_training_folder(training, raw, averaged, capsys):
    config = json.loads((training / "unet_ema" / "config.json").read_text())
    assert config["optimization_step"] == 1_250_000
    capsys.readouterr()
    model = load_checkpoint(training)
    assert holds(model, averaged)
    assert "preferred to 'unet'" in weights_of(model).origin
    assert holds(load_checkpoint(training, weights=weights_of(model).value), averaged)
    assert "optimization_step" not in model.architecture
    assert "not expected" not in capsys.readouterr().err
    for name in ("unet", "unet/"):
        assert holds(load_checkpoint(training, weights=name), raw)
    for name in ("ema", "unet_ema", "unet_ema/"):
        assert holds(load_checkpoint(training, weights=name), averaged)
    with pytest.raises(UsageError, match=r"no such set of weights in .*unet'.*unet_ema'"):
        load_checkpoint(training, weights="unet_target")


def test_an_averaged_folder_alone_and_other_folders(training, raw, averaged):
    assert holds(load_checkpoint(training / "unet_ema"), averaged)
    (training / "optimizer.bin").write_bytes(b"x")
    (training / "vae").mkdir()
    (training / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (training / "vae" / WEIGHTS).write_bytes(b"x")
    assert holds(load_checkpoint(training), averaged)
    raw.save_pretrained(training / "unet_teacher")
    assert holds(load_checkpoint(training), averaged)
    raw.save_pretrained(training / "second")
    with pytest.raises(CheckpointError, match=r"holds 4 networks: 'second', 'unet', 'unet_ema', 'unet_teacher'"):
        load_checkpoint(training)
    assert holds(load_checkpoint(training, weights="second"), raw)


def test_another_shape_is_no_pair(training):
    UNet2DModel(**{**FIELDS, "block_out_channels": (32, 32)}).save_pretrained(training / "unet_ema")
    with pytest.raises(CheckpointError, match=r"holds 2 networks: 'unet', 'unet_ema';\nsay which: --weights unet"):
        load_checkpoint(training)


@pytest.mark.parametrize(
    "changes",
    [{"optimization_step": 10**12, "decay": 0.9999, "my_note": list(range(99)), "date": 20_240_131, "seed": -(2**40)}],
)
def test_only_fields_that_shape_the_network_are_judged(changes, tmp_path, raw):
    raw.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    assert holds(load_checkpoint(tmp_path), raw)
    for field, value in {
        "block_out_channels": [32] * 40,
        "num_train_timesteps": 10**7,
        "norm_num_groups": 10**6,
    }.items():
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes, field: value}))
        with pytest.raises(CheckpointError, match=f"{field} is implausible"):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(safe, variant, tmp_path, raw):
    network = raw if variant is None else half(raw)
    network.save_pretrained(tmp_path, max_shard_size="300KB", safe_serialization=safe, variant=variant)
    assert len(list(tmp_path.glob("*-of-*"))) > 2
    model = load_checkpoint(tmp_path)
    assert holds(model, network)
    assert model.source.size_bytes > sum(p.numel() for p in raw.parameters()) * (2 if variant else 4)
    assert (weights_of(model) is None) == (variant is None)
    assert load_checkpoint(tmp_path).source.sha256 == model.source.sha256


def rewritten(index, **changes):
    content = json.loads(index.read_text())
    content["weight_map"].update(changes)
    index.write_text(json.dumps(content))


def test_damaged_indices(tmp_path, raw):
    raw.save_pretrained(tmp_path, max_shard_size="300KB")
    index = tmp_path / f"{WEIGHTS}.index.json"
    whole = index.read_text()
    files = sorted(path.name for path in tmp_path.glob("*-of-*"))
    key, place = next(iter(json.loads(whole)["weight_map"].items()))

    def refused(pattern):
        with pytest.raises(CheckpointError, match=pattern) as caught:
            load_checkpoint(tmp_path)
        assert len(str(caught.value).splitlines()) <= 3
        index.write_text(whole)

    outside = tmp_path.parent / "outside.safetensors"
    outside.write_bytes((tmp_path / files[0]).read_bytes())
    for file in ("../outside.safetensors", str(outside), "a/b.safetensors", "..", "", "..\\outside.safetensors", 3):
        rewritten(index, **{key: file})
        refused("does not lie beside it|has no weight_map")
    rewritten(index, **{key: "absent.safetensors"})
    refused(r"1 of its \d+ files missing: absent\.safetensors")
    rewritten(index, **{key: next(file for file in files if file != place)})
    refused("does not list for it|lacks")
    rewritten(index, **{"no.such.weight": files[0]})
    refused(r"lacks no\.such\.weight")
    index.write_text(whole.replace('"weight_map": {', '"weight_map": {' + f'"{key}": "{place}", ', 1))
    refused(f"lists {key} twice")
    for text in ("{", "[]", '{"weight_map": {}}', '{"weight_map": []}', "[" * 100_000):
        index.write_text(text)
        refused(r"index\.json")
    # The same weight in two files.
    tensors, other = load_file(tmp_path / place), next(file for file in files if file != place)
    save_file({**load_file(tmp_path / other), key: tensors[key]}, tmp_path / other)
    refused("too|does not list")
    (tmp_path / other).unlink()
    refused(f"missing: {other}")
    raw.save_pretrained(tmp_path / "both")
    (tmp_path / "both" / index.name).write_text(whole)
    with pytest.raises(CheckpointError, match=r"holds .*safetensors and .*index\.json; remove one"):
        load_checkpoint(tmp_path / "both")


def test_variants(tmp_path, raw, averaged):
    half(raw).save_pretrained(tmp_path, variant="fp16")
    model = load_checkpoint(tmp_path)
    assert holds(model, half(raw))
    assert weights_of(model).value == "fp16"
    assert weights_of(model).origin == "the only variant that is there"
    half(averaged, torch.bfloat16).save_pretrained(tmp_path, variant="bf16")
    with pytest.raises(CheckpointError, match=r"holds 2 variants: 'bf16', 'fp16';\nsay which: --weights bf16"):
        load_checkpoint(tmp_path)
    assert holds(load_checkpoint(tmp_path, weights="bf16"), half(averaged, torch.bfloat16))
    averaged.save_pretrained(tmp_path)
    assert weights_of(load_checkpoint(tmp_path)) is None
    assert holds(load_checkpoint(tmp_path), averaged)
    assert holds(load_checkpoint(tmp_path, weights="fp16"), half(raw))
    raw.save_pretrained(tmp_path, variant="non_ema")
    model = load_checkpoint(tmp_path)
    assert holds(model, averaged)
    assert "preferred to 'non_ema'" in weights_of(model).origin
    assert holds(load_checkpoint(tmp_path, weights=weights_of(model).value), averaged)
    assert holds(load_checkpoint(tmp_path, weights="non_ema"), raw)


def test_a_variant_in_a_subfolder(training, averaged):
    half(averaged).save_pretrained(training / "unet_ema", variant="fp16")
    (training / "unet_ema" / WEIGHTS).unlink()
    model = load_checkpoint(training)
    assert weights_of(model).value == "unet_ema:fp16"
    for name in (weights_of(model).value, "unet_ema"):
        assert holds(load_checkpoint(training, weights=name), half(averaged))
    averaged.save_pretrained(training / "unet_ema")
    assert holds(load_checkpoint(training, weights="unet_ema:fp16"), half(averaged))
    assert holds(load_checkpoint(training, weights="unet_ema"), averaged)


def test_an_averaged_variant(tmp_path, raw, averaged):
    raw.save_pretrained(tmp_path)
    averaged.save_pretrained(tmp_path, variant="ema")
    model = load_checkpoint(tmp_path)
    assert holds(model, averaged)
    assert "preferred" in weights_of(model).origin
    assert holds(load_checkpoint(tmp_path, weights="."), raw)


def test_one_file_of_a_folder_by_its_name(tmp_path, raw, averaged):
    raw.save_pretrained(tmp_path)
    half(averaged).save_pretrained(tmp_path, variant="fp16")
    path = tmp_path / "diffusion_pytorch_model.fp16.safetensors"
    model = load_checkpoint(path)
    assert holds(model, half(averaged))
    assert model.source.path == path
    torch.save({"model": raw.state_dict(), "ema": averaged.state_dict()}, tmp_path / "training.pt")
    assert holds(load_checkpoint(tmp_path / "training.pt"), averaged)
    lists = {"model": raw.state_dict(), "ema": {"shadow_params": list(averaged.parameters())}}
    torch.save(lists, tmp_path / "lists.pt")
    assert holds(load_checkpoint(tmp_path / "lists.pt"), averaged)


def test_accelerate(tmp_path, raw, adm):
    """`accelerator.save_state` writes no configuration."""
    save_file(raw.state_dict(), tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"without the config\.json.*\n.*save_config\('.*'\)"):
            load_checkpoint(path)
    # The advice leads somewhere.
    raw.save_config(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert holds(load_checkpoint(path), raw)
    for name in ("model.safetensors", "pytorch_model.bin"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        network = adm(3)
        if name.endswith("bin"):
            torch.save(network.state_dict(), folder / name)
        else:
            save_file(network.state_dict(), folder / name)
        torch.save({"state": {}, "param_groups": []}, folder / "optimizer.bin")
        model = load_checkpoint(folder, {"num_head_channels": "32"})
        assert torch.equal(model.network.state_dict()["out.2.weight"], network.state_dict()["out.2.weight"])
        assert model.source.path == folder
    # The hub's mixin writes the arguments of a class of one's own.
    (folder / "config.json").write_text('{"channels": 32}')
    assert load_checkpoint(folder, {"num_head_channels": "32"}).source.path == folder
    torch.save(adm(4).state_dict(), folder / "pytorch_model_1.bin")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"'pytorch_model', 'pytorch_model_1'"):
        load_checkpoint(folder, {"num_head_channels": "32"})
    second = load_checkpoint(folder, {"num_head_channels": "32"}, weights="pytorch_model_1")
    assert torch.equal(second.network.state_dict()["out.2.weight"], adm(4).state_dict()["out.2.weight"])


def test_folders_above_checkpoints_say_where_they_are(tmp_path, raw, adm):
    raw.save_pretrained(tmp_path / "checkpoint-500" / "unet")
    with pytest.raises(CheckpointError, match=r"name the one you mean: .*checkpoint-500"):
        load_checkpoint(tmp_path)
    assert holds(load_checkpoint(tmp_path / "checkpoint-500"), raw)
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        load_checkpoint(tmp_path / "dcp")
    (tmp_path / "files").mkdir()
    torch.save(adm().state_dict(), tmp_path / "files" / "ema_0.9999.pt")
    with pytest.raises(CheckpointError, match=r"name the file you mean: .*ema_0\.9999\.pt"):
        load_checkpoint(tmp_path / "files")


def test_averages_registered_with_accelerate(tmp_path, raw, averaged, adm):
    """`accelerator.register_for_checkpointing(ema)` leaves a list in a pickle; safetensors sorts names."""
    ema = EMAModel(averaged.parameters())
    save_file(raw.state_dict(), tmp_path / "model.safetensors")
    raw.save_config(tmp_path)
    before = load_checkpoint(tmp_path).source.sha256
    torch.save(ema.state_dict(), tmp_path / "custom_checkpoint_0.pkl")
    model = load_checkpoint(tmp_path)
    assert holds(model, averaged)
    assert weights_of(model).value == "custom_checkpoint_0.shadow_params"
    assert model.source.sha256 != before
    assert holds(load_checkpoint(tmp_path, weights="model"), raw)
    folder = tmp_path / "openai"
    folder.mkdir()
    one, other, fields = adm(1), adm(2), {"num_head_channels": "32"}
    torch.save({"shadow_params": list(other.parameters())}, folder / "custom_checkpoint_0.pkl")
    save_file(one.state_dict(), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"sorted by name.*\n.*--weights model"):
        load_checkpoint(folder, fields)
    key = "out.2.weight"
    got = load_checkpoint(folder, fields, weights="model").network.state_dict()[key]
    assert torch.equal(got, one.state_dict()[key])
    (folder / "model.safetensors").unlink()
    torch.save(one.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(load_checkpoint(folder, fields).network.state_dict()[key], other.state_dict()[key])
