"""LoRA files that can't be merged: damaged, of another kind, for another model. None gets further than one sentence."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from support import lora_files as files
from support.latent_pipelines import unet

from cmexport.checkpoints import load_checkpoint
from cmexport.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files.plain_pipeline(tmp_path_factory.mktemp("lora") / "pipeline")


@pytest.fixture(scope="module")
def sound(folder):
    """Tensors of a small LoRA."""
    return files.kohya(files.trained(files.base(folder), only=("attn1.to_q", "attn2.to_k", "q_proj"), alpha=2.0))


KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOWN, UP, ALPHA = (f"{KEY}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))


def with_nan(tensors, key):
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[0] = float("nan")


def put(key, value):
    return lambda tensors: tensors.__setitem__(key, value)


def renamed(old, new):
    def change(tensors):
        for key in list(tensors):
            if old in key:
                tensors[key.replace(old, new)] = tensors.pop(key)

    return change


BAD = {
    "NaN in a matrix": (lambda t: with_nan(t, UP), r"lora_up.weight holds NaN or infinite"),
    "NaN as alpha": (put(ALPHA, torch.tensor(float("nan"))), r"alpha is nan; with this alpha the LoRA says nothing"),
    "alpha 0": (put(ALPHA, torch.tensor(0.0)), r"alpha is 0"),
    "alpha of a shape": (put(ALPHA, torch.ones(4)), r"alpha has shape \(4,\), but alpha is one number"),
    "ranks that differ": (put(UP, torch.ones(32, 5)), r"down has rank 4, up 5; they were trained apart"),
    "rank 0": (put(DOWN, torch.ones(0, 32)), r"shape \(0, 32\), no matrix of a LoRA"),
    "whole numbers": (put(UP, torch.ones(32, 4, dtype=torch.int8)), r"torch.int8 of shape"),
    "a vector": (put(UP, torch.ones(32)), r"no matrix of a LoRA"),
    "up with a kernel": (put(UP, torch.ones(32, 4, 3, 3)), r"only 1x1 convolutions"),
    "up alone": (lambda t: t.pop(DOWN), r"has one matrix alone; each layer of a LoRA has two"),
    "alpha alone": (lambda t: (t.pop(DOWN), t.pop(UP)), r"has an alpha alone"),
    "DoRA": (put(f"{KEY}.dora_scale", torch.ones(32, 1)), r"is a DoRA .*dora_scale\), which is not supported"),
    "DoRA of peft": (put(f"{KEY}.lora_magnitude_vector", torch.ones(32)), r"is a DoRA"),
    "LoHa": (put(f"{KEY}.hada_w1_a", torch.ones(32, 4)), r"is a LyCORIS LoHa"),
    "LoKr": (put(f"{KEY}.lokr_w1", torch.ones(32, 4)), r"is a LyCORIS LoKr"),
    "OFT": (put(f"{KEY}.oft_blocks", torch.ones(4, 4, 4)), r"is a LyCORIS OFT"),
    "LoCon with a core": (put(f"{KEY}.lora_mid.weight", torch.ones(4, 4, 3, 3)), r"LoCon with a core tensor"),
    "a stranger among them": (put("lora_unet_conv.diff_b", torch.ones(3)), r"1 weight that no LoRA has: .*diff_b"),
    "layers of another UNet": (
        renamed("down_blocks_0", "down_blocks_7"),
        r"2 of its \d+ layers are none of this model's: lora_unet_down_blocks_7",
    ),
    "a second text encoder": (
        renamed("lora_te_", "lora_te2_"),
        r"layers are none of this model's: lora_te2_",
    ),
    "dots where they can't be told": (renamed("to_k", "to.k"), r"layers are none of this model's"),
    "another width": (
        put(DOWN, torch.ones(4, 2048)),
        r"trained for Stable Diffusion XL\n.*2048 to 32 channels; .*32 to 32",
    ),
    "two spellings of a layer": (
        lambda t: t.update(
            {
                f"unet.{'down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k'}.lora_{s}.weight": v
                for s, v in (("A", t[DOWN]), ("B", t[UP]))
            }
        ),
        r"are one layer, down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k of unet",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_content(what, folder, sound, tmp_path):
    change, said = BAD[what]
    tensors = {key: tensor.clone() for key, tensor in sound.items()}
    change(tensors)
    path = files.saved(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_checkpoint(folder, {"lora": str(path)})
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_sound_one_is_merged(folder, sound, tmp_path):
    path = files.saved(tmp_path / "a.safetensors", sound)
    assert len(load_checkpoint(folder, {"lora": str(path)}).loras[0].layers) == len(sound) // 3


def truncated(path, tensors):
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-9])


FILES = {
    "missing": (lambda path, _: None, "no such file"),
    "folder": (lambda path, _: path.mkdir(), "is a folder"),
    "empty": (lambda path, _: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path, _: path.write_text("weights"), "neither safetensors nor torch.save wrote it"),
    "truncated": (truncated, "damaged"),
    "no tensors": (lambda path, _: save_file({}, path), "holds no LoRA, but nothing"),
    "code.pt": (
        lambda path, t: torch.save({"state_dict": t, "x": print}, path),
        r"would import __builtin__.print; nothing was run\.\nask its author for a \.safetensors$",
    ),
    "list.pt": (lambda path, t: torch.save(list(t.values()), path), "holds a list, not a state dict"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files(name, folder, sound, tmp_path):
    write, said = FILES[name]
    path = tmp_path / name
    write(path, sound)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(folder, {"lora": str(path)})


def test_a_whole_checkpoint_is_no_lora(folder):
    (path,) = (folder / "unet").glob("*.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no LoRA, but .*\n.*a whole model is the CKPT itself"):
        load_checkpoint(folder, {"lora": str(path)})


def test_a_lora_of_a_wider_model(folder, tmp_path):
    """As SDXL's on SD1.5: the same names, other shapes."""
    other = unet(None, width=2048)
    path = files.saved(tmp_path / "xl.safetensors", files.kohya(files.trained({"unet": other}, only=("attn2.to_k",))))
    with pytest.raises(CheckpointError, match="is for another model than this: it was trained for Stable Diffusion XL"):
        load_checkpoint(folder, {"lora": str(path)})


CONFIGS = {
    "use_dora": ({"use_dora": True}, "use_dora is not supported"),
    "LoKr": ({"peft_type": "LOKR"}, "peft_type is LOKR"),
    "alpha": ({"lora_alpha": "much"}, "lora_alpha is much"),
    "alpha of a layer": ({"lora_alpha": 4, "alpha_pattern": {"to_q": 0}}, "lora_alpha is 0"),
    "an expression": ({"alpha_pattern": {"(a+)+b": 2}}, "no table of layers' names"),
    "a list": ({"alpha_pattern": [1]}, "no table of layers' names"),
}


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("what", CONFIGS)
def test_configurations(what, beside, folder, tmp_path):
    fields, said = CONFIGS[what]
    layers = files.trained({"unet": files.base(folder)["unet"]}, only=("to_q",))
    if beside:
        path = files.saved(tmp_path / "adapter_model.safetensors", files.new(layers))
        (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    else:
        header = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in fields.items()})}
        path = files.saved(tmp_path / "a.safetensors", files.new(layers), header)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(folder, {"lora": str(path)})


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"unet": ' + "[" * 5000])
def test_damaged_metadata(text, folder, tmp_path):
    layers = files.trained({"unet": files.base(folder)["unet"]}, only=("to_q",))
    path = files.saved(tmp_path / "a.safetensors", files.new(layers), {"lora_adapter_metadata": text})
    with pytest.raises(CheckpointError, match="in its header is damaged"):
        load_checkpoint(folder, {"lora": str(path)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be FILE or FILE:scale"),
        (":0.5", "must be FILE or FILE:scale"),
        ("a.safetensors:0", "scale other than 0"),
        ("a.safetensors:nan", "scale other than 0"),
        ("a.safetensors:inf", "scale other than 0"),
        ("a.safetensors,a.safetensors:0.5", "must name each file once"),
        ("a.safetensors,", "must be FILE or FILE:scale"),
    ],
)
def test_texts_that_are_no_lora(text, said, folder):
    with pytest.raises(UsageError, match=said):
        load_checkpoint(folder, {"lora": text})


def test_pixel_models_take_none(tmp_path):
    from cmexport.demo import demo_checkpoint

    with pytest.raises(UsageError, match="--set lora: this model has no such constant"):
        load_checkpoint(demo_checkpoint(), {"lora": str(tmp_path / "a.safetensors")})
