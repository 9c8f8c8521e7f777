"""Exact rescaling before half precision, on a decoder whose mid block peaks as Stable Diffusion XL's does."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from support.latent_pipelines import decoder
from torch import nn

from cmexport.graph.capture import CapturedGraph
from cmexport.graph.evaluate import exact_picture
from cmexport.graph.ranges import LARGEST, SAFE, overflowing, peaks
from cmexport.graph.rewrites import HALF_REWRITES, REWRITES, fit_half
from cmexport.graph.rewriting import apply_rewrites
from cmexport.graph.tracing import to_module, trace
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.signature import Normal, Output, Signature
from cmexport.signature.border import Input
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.lower import lower

LATENT = (1, 4, 8, 8)


def captured(module: nn.Module, shape=LATENT) -> CapturedGraph:
    inputs = (Input("noise", shape, law=Normal()),)
    given = {"noise": torch.zeros(shape)}
    with torch.no_grad():
        output = Output("image", tuple(module(**given).shape))
    return CapturedGraph(trace(module.eval().requires_grad_(False), given), Signature(inputs, output))


class Decoder(nn.Module):
    """AutoencoderKL's way to pictures; its residual stream is multiplied, which all of its norms take away again."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.vae: diffusers.AutoencoderKL = decoder("kl")
        part = self.vae.decoder
        writing = [part.conv_in, part.mid_block.attentions[0].to_out[0], part.up_blocks[1].resnets[0].conv2]
        writing += [
            r.conv2 for r in (*part.mid_block.resnets, *part.up_blocks[0].resnets, *part.up_blocks[1].resnets[1:])
        ]
        for layer in writing:
            layer.weight.data *= factor
            layer.bias.data *= factor

    def forward(self, noise):
        return self.vae.decode(noise, return_dict=False)[0].clamp(-1.0, 1.0)


@pytest.fixture(scope="module")
def large():
    """With a stream beyond float16, after the general rewrites."""
    made = apply_rewrites(captured(Decoder(2.0**15)), REWRITES)
    module = to_module(made.program)
    assert max(peaks(module, made.signature).values()) > LARGEST
    return made


def exactly(graph, seed=3):
    return exact_picture(to_module(graph.program), graph.signature.examples(seed)).numpy()


def test_the_pictures_stay_what_they_are_and_nothing_is_too_large(large):
    fitted = apply_rewrites(large, HALF_REWRITES)
    (report,) = fitted.rewrites[len(large.rewrites) :]
    assert report.applied >= 1
    assert "peaks at" in report.note
    assert fit_half.LEFT not in report.note
    np.testing.assert_allclose(exactly(fitted), exactly(large), rtol=0, atol=1e-12)
    assert max(peaks(to_module(fitted.program), fitted.signature).values()) <= SAFE
    assert overflowing(large)
    assert not overflowing(fitted)
    # No product is left where linear layers and norms take the factor.
    assert report.nodes_removed == 0


def test_half_precision_draws_what_float64_draws(large, tmp_path):
    """In ONNX Runtime; without the rewrite the file gives NaN."""
    found = {}
    for name, rewrites in (("with", "all"), ("without", "pack_attention")):
        files = lower(large, OnnxOptions(precision="fp16", rewrites=rewrites), tmp_path, lambda _: None, name).files
        with OnnxRuntimeRunner(tmp_path / files[0]) as run:
            found[name] = run({k: v.numpy() for k, v in large.signature.examples(3).items()})["image"]
    expected = exactly(large)
    assert expected.std() > 0.05
    error = np.abs(found["with"] - expected).max()
    assert error < 0.01, error
    assert np.isnan(found["without"]).any()


def test_ordinary_networks_are_left_alone():
    made = apply_rewrites(captured(Decoder(1.0)), REWRITES)
    fitted = apply_rewrites(made, HALF_REWRITES)
    (report,) = fitted.rewrites[len(made.rewrites) :]
    assert (report.applied, report.note) == (0, "")


class Gated(nn.Module):
    """A product of two activations, which no factor can be moved through."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1)
        self.into.weight.data *= 300.0
        self.out.weight.data *= 1e-4

    def forward(self, noise):
        made = self.into(noise)
        return self.out(made * torch.relu(made)).clamp(-1.0, 1.0)


def test_what_cannot_be_scaled_stays_in_float32(tmp_path):
    torch.manual_seed(0)
    made = apply_rewrites(captured(Gated()), REWRITES)
    fitted = apply_rewrites(made, HALF_REWRITES)
    assert fit_half.LEFT in fitted.rewrites[-1].note
    assert "mul" in overflowing(fitted)
    lowered = lower(made, OnnxOptions(precision="fp16"), tmp_path, lambda _: None)
    assert {"Mul", "Conv"} <= set(lowered.precision_plan["kept_float32"])
    with OnnxRuntimeRunner(tmp_path / lowered.files[0]) as run:
        found = run({k: v.numpy() for k, v in made.signature.examples(3).items()})["image"]
    np.testing.assert_allclose(found, exactly(made), rtol=0, atol=0.02)
