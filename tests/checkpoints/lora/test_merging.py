"""LoRA files merged into checkpoints: diffusers and peft merge the same files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from support import lora_files as files
from support.latent_pipelines import save_xl_pipeline

from cmexport.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return files.plain_pipeline(tmp_path_factory.mktemp("lora") / "pipeline")


@pytest.fixture(scope="module")
def networks(folder):
    return files.base(folder)


def weights(model):
    """By part, under the library's names."""
    return {"unet": model.network.unet.state_dict(), "text_encoder": model.worded.encode.state_dict()}


def differs(expected, found):
    """Largest difference of a weight; names of the text encoder come with `text_model.` or without."""
    worst = 0.0
    for part, state in found.items():
        named = {key.removeprefix("text_model."): tensor for key, tensor in expected[part].items()}
        named.pop("embeddings.position_ids", None)
        assert set(named) == set(state)
        worst = max(worst, *(float((tensor - named[key]).abs().max()) for key, tensor in state.items()))
    return worst


def changed(folder, found):
    """How many weights are others than in the pipeline without a LoRA."""
    plain = weights(load_checkpoint(folder))
    return {part: sum(not torch.equal(t, plain[part][k]) for k, t in state.items()) for part, state in found.items()}


DIALECTS = {
    "kohya": (files.kohya, "kohya"),
    "sgm": (files.kohya_sgm, "kohya and kohya with SGM names"),
    "new": (files.new, "diffusers"),
    "old": (files.old, "diffusers and old diffusers"),
}


# Old diffusers had no alpha.
@pytest.mark.parametrize(
    ("dialect", "alpha"), [("kohya", None), ("kohya", 3.0), ("sgm", 3.0), ("new", None), ("new", 3.0), ("old", None)]
)
def test_diffusers_merges_the_same(dialect, alpha, folder, networks, tmp_path):
    spelled, named = DIALECTS[dialect]
    # diffusers takes the upsampler behind blocks without attention, `output_blocks.1.1`, for an attention.
    without = ("time_embedding", "conv_in", "conv_out", *(("upsamplers",) if dialect == "sgm" else ()))
    layers = files.trained(networks, alpha=alpha, without=without)
    metadata = files.adapter_metadata(layers) if dialect == "new" and alpha is not None else None
    path = files.saved(tmp_path / "style.safetensors", spelled(layers), metadata)
    expected = files.fused_by_diffusers(folder, path, 0.7, sgm=dialect == "sgm")
    model = load_checkpoint(folder, {"lora": f"{path}:0.7"})
    found = weights(model)
    assert differs(expected, found) < 1e-6
    per_part = {part: sum(layer.part == part for layer in layers) for part in found}
    assert changed(folder, found) == per_part
    assert any(layer.convolution for layer in layers)
    (lora,) = model.loras
    assert (lora.dialect, lora.scale, len(lora.layers)) == (named, 0.7, len(layers))


@pytest.mark.parametrize(("alpha", "rslora"), [(4.0, False), (3.0, True)])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_peft_merges_the_same(part, alpha, rslora, folder, tmp_path):
    """A network's adapter as peft saves it, with its configuration beside it."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    kind = UNet2DConditionModel if part == "unet" else CLIPTextModel
    names = [*files.ATTENTION, "conv1", "conv_shortcut", "proj_in", "q_proj", "fc2"]
    network = kind.from_pretrained(folder, subfolder=part)
    there = [n for n in names if any(m.endswith(n) for m, _ in network.named_modules())]
    config = peft.LoraConfig(r=4, lora_alpha=alpha, use_rslora=rslora, target_modules=there, init_lora_weights=False)
    torch.manual_seed(3)
    peft.get_peft_model(network, config).save_pretrained(tmp_path / "adapter")
    adapted = peft.PeftModel.from_pretrained(kind.from_pretrained(folder, subfolder=part), tmp_path / "adapter")
    for module in adapted.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.7)
    expected = adapted.merge_and_unload().state_dict()
    model = load_checkpoint(folder, {"lora": f"{tmp_path / 'adapter' / 'adapter_model.safetensors'}:0.7"})
    found = weights(model)
    assert differs({part: expected}, {part: found[part]}) < 1e-6
    assert changed(folder, found)[part] == len(model.loras[0].layers) > 3
    assert model.loras[0].dialect == "peft"
    assert {layer.alpha for layer in model.loras[0].layers} == {alpha}


def test_alpha_and_rank_of_each_layer_against_the_formula(folder, networks, tmp_path):
    """What diffusers has no room for: layers with alphas and ranks of their own."""
    layers = [
        layer
        for i, only in enumerate(("to_q", "conv1", "q_proj", "fc1", "proj_in"))
        for layer in files.trained(networks, rank=i + 1, alpha=None if i == 2 else 0.5 + i, only=(only,), seed=i)
    ]
    path = files.saved(tmp_path / "a.safetensors", files.kohya(layers))
    plain, model = weights(load_checkpoint(folder)), load_checkpoint(folder, {"lora": f"{path}:-1.5"})
    found, told = weights(model), {(layer.part, layer.name): layer for layer in model.loras[0].layers}
    assert len(told) == len(layers) > 20
    for layer in layers:
        key, rank = f"{layer.name}.weight", layer.down.shape[0]
        before = plain[layer.part][key].double()
        factor = -1.5 * (rank if layer.alpha is None else layer.alpha) / rank
        added = factor * torch.einsum("or,r...->o...", layer.up.double().flatten(1), layer.down.double())
        exact = (before + added).float()
        assert torch.equal(found[layer.part][key], exact)
        said = told[layer.part, layer.name]
        assert said.rank == rank
        assert said.ratio == pytest.approx(float(added.norm() / before.norm()))


def test_several_add_up_and_are_rounded_once(folder, networks, tmp_path):
    one = files.trained(networks, only=("to_q",), seed=1)
    two = files.trained(networks, only=("to_q", "fc1"), seed=2)
    first = files.saved(tmp_path / "one.safetensors", files.kohya(one))
    second = files.saved(tmp_path / "two.safetensors", files.old(two))
    plain = weights(load_checkpoint(folder))["unet"]
    model = load_checkpoint(folder, {"lora": f"{first},{second}:0.25"})
    found, deltas = weights(model)["unet"], {}
    for layers, scale in ((one, 1.0), (two, 0.25)):
        for layer in layers:
            if layer.part == "unet":
                added = scale * layer.up.double() @ layer.down.double()
                deltas[layer.name] = deltas.get(layer.name, 0.0) + added
    assert deltas
    for name, added in deltas.items():
        assert torch.equal(found[f"{name}.weight"], (plain[f"{name}.weight"].double() + added).float())
    assert [lora.scale for lora in model.loras] == [1.0, 0.25]


def test_matrices_of_1x1_convolutions_and_linear_layers_are_the_same(folder, networks, tmp_path):
    """Files for networks with `use_linear_projection` or without it, in the other."""
    layers = files.trained({"unet": networks["unet"]}, only=("proj_in", "proj_out", "to_q"))
    tensors = files.kohya(layers)
    other = {k: t.flatten(1) if t.ndim == 4 else t[..., None, None] if t.ndim == 2 else t for k, t in tensors.items()}
    assert all(other[key].ndim != tensor.ndim for key, tensor in tensors.items())
    one, two = (
        weights(load_checkpoint(folder, {"lora": str(files.saved(tmp_path / f"{n}.safetensors", t))}))
        for n, t in (("a", tensors), ("b", other))
    )
    assert all(torch.equal(tensor, two["unet"][key]) for key, tensor in one["unet"].items())


@pytest.mark.parametrize("kind", ["pt", "bin"])
def test_files_of_torch(kind, folder, networks, tmp_path):
    tensors = files.kohya(files.trained(networks, only=("to_q",)))
    torch.save(tensors, tmp_path / f"a.{kind}")
    files.saved(tmp_path / "a.safetensors", {key: tensor.half() for key, tensor in tensors.items()})
    exact, half = (
        weights(load_checkpoint(folder, {"lora": str(tmp_path / name)})) for name in (f"a.{kind}", "a.safetensors")
    )
    rounded = max(float((t - half["unet"][k]).abs().max()) for k, t in exact["unet"].items())
    assert 0 < rounded < 1e-2


def test_names_in_both_spellings_are_merged_once_and_said(folder, networks, tmp_path):
    layers = files.trained({"unet": networks["unet"]}, only=("attn1.to_q", "conv1"))
    wrong = [replace(layer, down=-layer.down) for layer in layers]
    path = files.saved(tmp_path / "both.safetensors", {**files.kohya(layers), **files.kohya_sgm(wrong)})
    expected = files.fused_by_diffusers(folder, path, 1.0, sgm=True)
    model = load_checkpoint(folder, {"lora": str(path)})
    assert differs(expected, weights(model)) < 1e-6
    (said,) = (s for s in model.settings if s.name == "lora")
    assert f"{len(layers)} layers are there twice" in said.remark


def test_the_hash_names_the_merged_weights_and_is_found_again(folder, networks, tmp_path):
    path = files.saved(tmp_path / "a.safetensors", files.kohya(files.trained(networks, only=("to_q",))))
    shutil.copy(path, tmp_path / "b.safetensors")
    hashes = [
        load_checkpoint(folder, given).source.sha256
        for given in ({}, *({"lora": f"{tmp_path / text}"} for text in ("a.safetensors", "a.safetensors:2")))
    ]
    assert len(set(hashes)) == 3
    assert load_checkpoint(folder, {"lora": str(tmp_path / "b.safetensors")}).source.sha256 == hashes[1]


def test_peft_keeps_alphas_of_single_layers(folder, networks, tmp_path):
    layers = files.trained({"unet": networks["unet"]}, only=("to_q", "to_k"))
    path = files.saved(
        tmp_path / "adapter_model.safetensors",
        {
            f"base_model.model.{layer.name}.lora_{side}.weight": tensor
            for layer in layers
            for side, tensor in (("A", layer.down), ("B", layer.up))
        },
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"attn1.to_k": 2, "^nothing": 5}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (lora,) = load_checkpoint(folder, {"lora": str(path)}).loras
    assert {layer.alpha for layer in lora.layers if layer.name.endswith("attn1.to_k")} == {2.0}
    assert {layer.alpha for layer in lora.layers if not layer.name.endswith("attn1.to_k")} == {8.0}


# diffusers knows kohya's text encoders by their out_proj.
ONLY = ("to_q", "to_out.0", "conv1", "proj_in", "fc1", "q_proj", "out_proj")


@pytest.mark.parametrize("spelled", [files.kohya, files.kohya_sgm], ids=["diffusers' names", "SGM's names"])
def test_both_text_encoders_and_the_unet_of_sdxl(spelled, tmp_path):
    """The pipeline of SDXL gives diffusers' converter the UNet's configuration by itself."""
    import diffusers
    from transformers import CLIPTextModelWithProjection

    from cmexport.checkpoints.latent_parts import text_names
    from cmexport.checkpoints.lora import LoraChoice, LoraMerger

    folder = save_xl_pipeline(tmp_path / "xl", "lcm")
    networks = files.base(folder)
    second = CLIPTextModelWithProjection.from_pretrained(folder, subfolder="text_encoder_2")
    networks = {**networks, "text_encoder_2": second}
    layers = files.trained(networks, alpha=2.0, only=ONLY)
    # Names of CLIPTextModelWithProjection have text_model in them already.
    layers = [replace(layer, name=layer.name.removeprefix("text_model.")) for layer in layers]
    path = files.saved(tmp_path / "xl.safetensors", spelled(layers))
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    plain = {part: copied(getattr(pipe, part)) for part in networks}
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    pipe.fuse_lora(components=list(networks), lora_scale=0.7)
    pipe.unload_lora_weights()
    merger = LoraMerger([LoraChoice(path, 0.7)])
    for part, state in plain.items():
        found, expected = merger.merged(part, state), text_names(getattr(pipe, part).state_dict())
        assert set(found) == set(expected)
        assert max(float((t - expected[key]).abs().max()) for key, t in found.items()) < 1e-6
        assert sum(not torch.equal(t, state[key]) for key, t in found.items()) == sum(x.part == part for x in layers)
    (lora,) = merger.finish()
    assert {layer.part for layer in lora.layers} == {"unet", "text_encoder", "text_encoder_2"}
    (loaded,) = load_checkpoint(folder, {"lora": f"{path}:0.7"}).loras
    assert {*loaded.layers} == {*lora.layers}


def copied(network):
    from cmexport.checkpoints.latent_parts import text_names

    return {key: tensor.clone() for key, tensor in text_names(network.state_dict()).items()}
