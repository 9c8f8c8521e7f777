"""`inspect --parts`, and Stable Diffusion in one file from the command line."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support import clip_tokenizers
from support import single_files as made

UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def state():
    two = made.UnetSizes(mults=(1, 2), blocks=1, depths=(1, 0))
    return made.checkpoint("sd15", two, words=1000, mults=(1, 2))


@pytest.fixture(scope="module")
def sound(state, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    save_file(state, folder / "model.safetensors")
    clip_tokenizers.save(folder / "words")
    return folder


@pytest.fixture(scope="module")
def damaged(state, tmp_path_factory):
    spoilt = {key.replace("middle_block.1.norm.", "middle_block.1.nrm."): tensor for key, tensor in state.items()}
    path = tmp_path_factory.mktemp("damaged") / "damaged.safetensors"
    save_file(spoilt | {"embedding_manager.x": torch.zeros(1)}, path)
    return path


def test_every_name_without_a_place_is_listed(cmexport, damaged):
    shown = cmexport("inspect", damaged, "--parts")
    assert (shown.code, shown.stderr) == (0, "")
    for text in (
        "Stable Diffusion 1, safetensors",
        f"unet: no network has (2):\n  {UNET}middle_block.1.nrm.bias\n  {UNET}middle_block.1.nrm.weight",
        "unet: missing (2):\n  mid_block.attentions.0.norm.weight\n  mid_block.attentions.0.norm.bias",
        "beside the parts, unknown (1):\n  embedding_manager.x",
    ):
        assert text in shown.stdout
    assert "has its place" not in shown.stdout
    facts = cmexport("inspect", damaged, "--parts", "--json").json
    assert facts["parts"][0]["missing"] == ["mid_block.attentions.0.norm.weight", "mid_block.attentions.0.norm.bias"]
    assert (facts["sound"], facts["beside"]) == (False, ["embedding_manager.x"])
    # Loading says where to look.
    refused = cmexport("inspect", damaged)
    assert refused.code == 3
    assert f"cmexport inspect {damaged} --parts lists them all" in refused.stderr


def test_a_sound_file_and_what_is_none(cmexport, sound, tiny_checkpoint):
    shown = cmexport("inspect", sound / "model.safetensors", "--parts")
    assert "Every weight of its parts has its place." in shown.stdout
    refused = cmexport("inspect", tiny_checkpoint, "--parts")
    assert refused.code == 2
    assert "is no Stable Diffusion checkpoint in one file" in refused.stderr
    assert cmexport("inspect", "--parts").code == 2


def test_an_export_says_its_guess_and_is_verified_again(cmexport, sound, tmp_path):
    checkpoint = sound / "model.safetensors"
    given = ("--size", "32x32", "--set", f"tokenizer={sound / 'words'}", "--steps", 1, "--no-verify")
    written = cmexport("onnx", checkpoint, *given, "-o", tmp_path)
    assert written.code == 0, written.stderr
    assert (
        "assumed scheduler=lcm (guess: no file says how few steps it takes; this may be a many-step" in written.stderr
    )
    assert "self-check: none, pictures can't tell scheduler of a latent model" in " ".join(written.stderr.split())
    (artefact,) = tmp_path.iterdir()
    assert cmexport("verify", artefact, "--seeds", 8).code == 0
    strict = cmexport("inspect", checkpoint, *given[:4], "--strict")
    assert strict.code == 3
    assert "--set scheduler=lcm" in strict.stderr


def test_an_artefact_has_no_parts_to_list(cmexport, tiny_artifact):
    refused = cmexport("inspect", tiny_artifact, "--parts")
    assert refused.code == 2
    assert "name a Stable Diffusion checkpoint in one file" in refused.stderr
