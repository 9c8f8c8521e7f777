"""Weights rounded for a file: on its grid, and nearer to the pictures than weights rounded each to its nearest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from support.networks import NOISE, model_around, random_weights
from torch import nn
from torch.nn import functional as F

from cmexport.graph.capture import capture
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.onnxfile.runner import OnnxRuntimeRunner
from cmexport.parity.inputs import draw_inputs
from cmexport.parity.metrics import compare
from cmexport.quantize.careful import round_carefully
from cmexport.quantize.plain import PlainRunner
from cmexport.quantize.weights import find_weights
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.targets.onnx.info import OnnxOptions
from cmexport.targets.onnx.target import OnnxTarget

AMPLIFYING = replace(NOISE, sigma_data=20.0)
STEPS = (80.0, 5.0)


class Network(nn.Module):
    """Channels that resemble each other, as trained ones do: what is rounded here can be made up for there."""

    def __init__(self):
        super().__init__()
        self.first, self.mix = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.linear, self.last = nn.Linear(64, 64), nn.Conv2d(64, 3, 3, padding=1)

    def forward(self, x, c_noise):
        x = F.silu(self.mix(F.silu(self.first(x) + 1e-4 * c_noise.to(x.dtype))))
        return self.last(self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@pytest.fixture(scope="module")
def sampler():
    model = model_around(random_weights(Network(), 0), 8, None, noise=AMPLIFYING)
    return resolve(model, SampleRequest(sigmas=STEPS))


@pytest.fixture(scope="module")
def graph(sampler):
    return capture(sampler)


def pictures(runner, sampler):
    with runner as run:
        return np.concatenate([picture_of(run(i)) for i in draw_inputs(sampler.signature, 8)])


@pytest.mark.parametrize(("precision", "bits", "block", "gain"), [("w8", 8, None, 1.5), ("w4", 4, 64, 3.0)])
def test_a_file_is_nearer_than_plain_rounding_and_holds_just_these_numbers(
    sampler, graph, precision, bits, block, gain, tmp_path
):
    exact = pictures(TorchRunner(sampler), sampler)
    plain = compare(exact, pictures(PlainRunner(graph, precision), sampler)).mean_db
    lowered = OnnxTarget().lower_one(graph, OnnxOptions(precision=precision), tmp_path, lambda _: None)
    path = tmp_path / lowered.files[0]
    drawn = compare(exact, pictures(OnnxRuntimeRunner(path, "none"), sampler)).mean_db
    assert drawn > plain + gain
    carefully = round_carefully(graph, bits, block)
    (kept,) = (w for w in find_weights(to_module(carefully.program)) if w.value.shape == (64, 64, 3, 3))
    stored = onnx.load(path)
    assert not stored.graph.value_info
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in stored.graph.initializer}
    (node,) = (
        n for n in stored.graph.node if n.op_type == "DequantizeLinear" and arrays[n.input[0]].shape == (64, 64, 3, 3)
    )
    codes, scale = arrays[node.input[0]].astype(np.float32), arrays[node.input[1].removesuffix("_read")]
    assert scale.dtype == np.float16
    steps = np.repeat(scale, 64, axis=1) if block else scale.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(codes * steps, kept.value.numpy(), rtol=1e-5, atol=1e-8)


def test_copies_of_a_weight_for_several_steps_stay_one(graph):
    def layers(captured):
        return [weight.names for weight in find_weights(to_module(captured.program))]

    assert layers(round_carefully(graph, 8)) == layers(graph)
