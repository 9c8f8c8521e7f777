"""`cmexport onnx --fp16` of a pipeline whose decoder leaves half precision's range, as SDXL's does."""

from __future__ import annotations

import re

import numpy as np
import onnxruntime as ort
import pytest
import torch
from support.latent_pipelines import drawn_by_diffusers, save_pipeline, weights

from cmexport.artifact import read_manifest
from cmexport.checkpoints import load_checkpoint

PROMPT, FACTOR = "a green car", 1.2e5


def louder(tensors):
    """Multiply what flows between the decoder's blocks: norms take it out again, so the pictures stay."""
    ends = re.compile(r"decoder\.(conv_in|.*\.(conv2|to_out\.0))\.")
    for name, tensor in tensors.items():
        if ends.match(name) or re.match(r"decoder\..*(upsamplers\.0\.conv|conv_shortcut)\.bias", name):
            tensor.mul_(FACTOR)


@pytest.fixture(scope="module")
def loud(tmp_path_factory):
    folder = save_pipeline(tmp_path_factory.mktemp("loud") / "pipeline", vae="kl")
    weights(folder, "vae", louder)
    return folder


def peak_of(folder, latents):
    """The largest number between diffusers' modules while the decoder runs."""
    from diffusers import AutoencoderKL

    found = []
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    for module in vae.decoder.modules():
        module.register_forward_hook(lambda _, __, out: found.append(float(out.detach().abs().max())))
    with torch.no_grad():
        vae.decode(latents)
    return max(found)


def test_a_decoder_beyond_the_range_needs_no_word(loud, cmexport, tmp_path):
    outcome = cmexport("onnx", loud, "--fp16", "--steps", "1", "--guidance", "5", "-o", tmp_path)
    assert outcome.code == 0, outcome.stderr
    (folder,) = tmp_path.iterdir()
    assert read_manifest(folder).precision == "fp16"
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32)
    assert peak_of(loud, torch.from_numpy(noise)) > 6e5
    tokens = np.array([load_checkpoint(loud).tokenizer.encode(PROMPT)])
    (image,) = ort.InferenceSession(folder / "model.onnx").run(None, {"noise": noise, "tokens": tokens})
    drawn = drawn_by_diffusers(loud, [PROMPT], {"noise": torch.from_numpy(noise)}, guidance=5.0, steps=1).numpy()
    assert drawn.std() > 0.01
    error = np.sqrt(np.mean((image.astype(np.float64) - drawn) ** 2))
    assert 20 * np.log10(2.0 / error) > 40
