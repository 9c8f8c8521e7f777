"""Every form that the border of a text-to-image graph takes, and what diffusers draws for the same inputs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from support.latent_pipelines import PROMPTS, drawn_by_diffusers, tiny_pipeline

from cmexport.checkpoints import load_checkpoint
from cmexport.model import SampleRequest
from cmexport.sampling.methods import resolve
from cmexport.sampling.prompting import tokens_of

GUIDANCE, STEPS = 5.0, 2


def _tokens(model, prompts):
    return {"tokens": tokens_of(model, prompts).numpy()}


def _embeddings(model, prompts):
    return {"embeddings": model.worded.encode(tokens_of(model, prompts)).numpy()}


@dataclass(frozen=True)
class Form:
    """What a request says besides its steps, and what the file takes besides noise.

    `size` is that of the pictures in pixels.
    """

    fields: dict = field(default_factory=dict)
    given: object = _tokens
    count: int = 1
    size: tuple[int, int] = (16, 16)

    def sampler(self):
        """The sampler of the request."""
        model = load_checkpoint(tiny_pipeline(), {"image_size": "x".join(map(str, self.size))})
        sigmas = tuple(model.schedule.sigma_of(t) for t in model.schedule.timesteps(STEPS))
        return resolve(model, SampleRequest(**{"sigmas": sigmas, "guidance": GUIDANCE, **self.fields}))

    def inputs(self, sampler):
        """Of one run, by name."""
        generator = torch.Generator().manual_seed(5)
        noises = [i for i in sampler.signature.inputs if "noise" in i.name]
        model = load_checkpoint(tiny_pipeline())
        given = self.given(model, PROMPTS[: self.count])
        return {**{i.name: torch.randn(i.shape, generator=generator).numpy() for i in noises}, **given}

    def expected(self, inputs):
        """(N, 3, H, W) in [-1, 1]."""
        noises = {name: torch.from_numpy(value) for name, value in inputs.items() if "noise" in name}
        height, width = self.size
        options = {"guidance": GUIDANCE, "steps": STEPS, "height": height, "width": width}
        return drawn_by_diffusers(tiny_pipeline(), PROMPTS[: self.count], noises, **options).numpy()

    def check(self, found, expected):
        """Whether a file's output shows what is expected."""
        tolerance = 2e-4
        if self.fields.get("output") == "uint8":
            found, tolerance = found.transpose(0, 3, 1, 2) / 127.5 - 1.0, 1.0 / 127.5
        assert found.shape == expected.shape == (self.count, 3, *self.size)
        assert np.ptp(expected) > 0.5
        assert np.abs(found - expected).max() < tolerance


def _listed(*_):
    return {"prompt": np.array([len(PROMPTS) - 1]), "guidance": np.array([GUIDANCE], np.float32)}


FORMS = {
    "tokens, two pictures, a rectangle": Form({"batch": 2}, count=2, size=(16, 24)),
    "a closed list, guidance an input, bytes": Form(
        {"prompts": PROMPTS[::-1], "guidance_input": True, "guidance": None, "output": "uint8"}, _listed
    ),
    "embeddings": Form({"condition": "embeddings"}, _embeddings),
    "baked": Form({"prompt": PROMPTS[0]}, lambda *_: {}),
}
