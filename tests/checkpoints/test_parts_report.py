"""Weights by part: published numbers of parameters, and names that have no place."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support import single_files as made

from cmexport.checkpoints.ldm_groups import Group
from cmexport.checkpoints.ldm_parts import kl_part, text_part, unet_part
from cmexport.checkpoints.parts_report import report_parts
from cmexport.errors import CheckpointError, UsageError

SD15 = made.UnetSizes(320, context=768)
SD21 = made.UnetSizes(320, context=1024, linear=True)
SDXL = made.UnetSizes(320, mults=(1, 2, 4), depths=(0, 2, 10), middle=10, context=2048, linear=True, extra=2816)
CLIP_L, OPEN_CLIP = "conditioner.embedders.0.transformer.", "cond_stage_model.model."


def group(shapes, part, prefix="model.diffusion_model."):
    return Group(part, prefix, {name: torch.empty(shape, device="meta") for name, shape in shapes})


# Parameters of the released models, as diffusers and transformers count them.
@pytest.mark.parametrize(
    ("described", "parameters"),
    [
        (lambda: unet_part("f", group(made.unet(SD15), "unet"), {}), 859_520_964),
        (lambda: unet_part("f", group(made.unet(SD21), "unet"), {}), 865_910_724),
        (lambda: unet_part("f", group(made.unet(SDXL), "unet"), {}), 2_567_463_684),
        (lambda: kl_part("f", group(made.autoencoder(128), "vae"), 0.18215), 83_653_863),
        (lambda: text_part("f", group(made.clip(768, 12), "text_encoder", CLIP_L)), 123_060_480),
        (lambda: text_part("f", group(made.open_clip(1024, 24), "text_encoder", OPEN_CLIP)), 340_387_840),
        (
            lambda: text_part("f", group(made.open_clip(1280, 32), "text_encoder_2", "conditioner.embedders.1.model.")),
            694_659_840,
        ),
    ],
    ids=["SD1.5", "SD2.1", "SDXL", "KL", "CLIP-L", "OpenCLIP-H", "OpenCLIP-bigG"],
)
def test_released_models_have_their_published_sizes(described, parameters):
    part = described()
    assert (part.unmatched, part.missing) == ((), ())
    state = part.state({part.group.whole(name): tensor for name, tensor in part.group.tensors.items()})
    assert sum(tensor.numel() for tensor in state.values()) == parameters


@pytest.fixture(scope="module")
def state():
    two = made.UnetSizes(mults=(1, 2), blocks=1, depths=(1, 0))
    return made.checkpoint("sd15", two, words=100, mults=(1, 2))


@pytest.fixture(scope="module")
def damaged(state, tmp_path_factory):
    """One renamed weight, one extra, one stranger, an average that lacks a weight, half of it in half precision."""
    unet = "model.diffusion_model."
    spoilt = dict(state)
    spoilt[unet + "middle_block.1.nrm.weight"] = spoilt.pop(unet + "middle_block.1.norm.weight")
    spoilt["first_stage_model.decoder.mid.block_3.norm1.weight"] = torch.ones(1)
    spoilt["embedding_manager.x"] = torch.zeros(1)
    for name in list(spoilt):
        if name.startswith("cond_stage_model.") and spoilt[name].ndim == 1:
            spoilt[name] = spoilt[name].half()
    for name in state:
        if name.startswith(unet) and "time_embed.0.bias" not in name:
            spoilt["model_ema.diffusion_model" + name.removeprefix(unet).replace(".", "")] = state[name].clone()
    path = tmp_path_factory.mktemp("damaged") / "damaged.safetensors"
    save_file(spoilt, path)
    return path


def test_a_sound_file(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    report = report_parts(tmp_path / "model.safetensors")
    assert report.sound
    assert report.family == "Stable Diffusion 1"
    assert [part.name for part in report.parts] == ["unet", "vae", "text_encoder"]
    counted = sum(part.weights for part in report.parts) + len(report.leftovers) + len(report.beside)
    assert counted == len(state)
    assert sum(part.parameters for part in report.parts) == sum(
        tensor.numel() for name, tensor in state.items() if "." in name
    )
    assert sorted(report.leftovers) == ["alphas_cumprod", "betas", "sqrt_recipm1_alphas_cumprod"]


def test_every_name_without_a_place(damaged):
    report = report_parts(damaged)
    unet, average, vae, text = report.parts
    assert not report.sound
    assert unet.unmatched == ("model.diffusion_model.middle_block.1.nrm.weight",)
    assert unet.missing == ("mid_block.attentions.0.norm.weight",)
    assert vae.unmatched == ("first_stage_model.decoder.mid.block_3.norm1.weight",)
    assert text.leftovers == ("cond_stage_model.transformer.text_model.embeddings.position_ids",)
    assert set(text.dtypes) == {"float16", "float32", "int64"}
    assert (average.name, average.prefix) == ("unet (averaged)", "model_ema.")
    assert "time_embedding.linear_1.bias" in average.missing
    assert "embedding_manager.x" in report.beside


def test_a_part_that_is_no_network_keeps_its_count(state, tmp_path):
    kept = {name: t for name, t in state.items() if not name.startswith("model.diffusion_model.output_blocks.")}
    save_file(kept, tmp_path / "model.safetensors")
    (unet, *_) = report_parts(tmp_path / "model.safetensors").parts
    assert unet.problem == "its output_blocks have gaps: there are none"
    assert unet.weights == sum(name.startswith("model.diffusion_model.") for name in kept)


def test_a_file_without_a_text_encoder_has_a_report(state, tmp_path):
    kept = {name: t for name, t in state.items() if not name.startswith("cond_stage_model.")}
    save_file(kept, tmp_path / "model.safetensors")
    report = report_parts(tmp_path / "model.safetensors")
    assert "a UNet without a text encoder" in report.problem
    assert (report.family, report.sound) == ("", False)


def test_what_is_no_single_file(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"--parts: .* is no Stable Diffusion checkpoint in one file"):
        report_parts(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        report_parts(tmp_path / "none.safetensors")


def test_a_pickle_is_reported_too(state, tmp_path):
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "model.ckpt")
    report = report_parts(tmp_path / "model.ckpt")
    assert (report.sound, report.container) == (True, "torch zip")
