"""Files of latent text-to-image models draw what diffusers' own pipelines draw of the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.latent_pipelines import PROMPTS, drawn_by_diffusers, tiny_pipeline

import cmexport
from cmexport.onnxfile.runner import OnnxRuntimeRunner

FORMS = {
    "tokens, KL, a rectangle": (
        ("lcm", "kl"),
        {"image_size": "16x24"},
        {"guidance": 5.0},
        {"guidance": 5.0, "height": 16, "width": 24},
    ),
    "guided twice a step, ancestral Euler": (("euler_ancestral", "tiny"), {}, {"guidance": 5.0}, {"guidance": 5.0}),
    "a closed list, TCD": (("tcd", "tiny"), {}, {"prompts": PROMPTS, "eta": 0.3}, {"guidance": 0.0, "eta": 0.3}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_draws_what_diffusers_draws(form, tmp_path):
    pipeline, settings, asked, call = FORMS[form]
    model = cmexport.load(tiny_pipeline(*pipeline), **settings)
    artifact = cmexport.export(model, steps=2, batch=len(PROMPTS), verify=False, out=tmp_path, **asked)
    signature = artifact.manifest.signature
    given = {name: tensor.numpy() for name, tensor in signature.examples(7).items()}
    if "prompts" in asked:
        assert signature.names == ("noise", "renoise", "prompt")
        given["prompt"] = np.arange(len(PROMPTS))
    else:
        assert signature.names == ("noise", "renoise", "tokens")
        given["tokens"] = np.array([model.tokenizer.encode(prompt) for prompt in PROMPTS])
    noises = {name: torch.from_numpy(given[name]) for name in ("noise", "renoise")}
    expected = drawn_by_diffusers(tiny_pipeline(*pipeline), PROMPTS, noises, steps=2, **call).numpy()
    with OnnxRuntimeRunner(artifact.folder / artifact.manifest.graphs[0].files[0]) as run:
        found = run(given)["image"]
    assert np.abs(found - expected).max() < 2e-4
    assert expected.std() > 0.01
    assert set(artifact.manifest.checkpoint.parts) == {"text_encoder", "network", "decoder"}
