"""Plain precisions against PyTorch's own: weights rounded by hand in the module, and the module in bfloat16."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.networks import model_around, random_weights
from torch import nn
from torch.nn import functional as F

from cmexport.graph.capture import capture
from cmexport.parity.metrics import compare
from cmexport.quantize.plain import PlainRunner
from cmexport.runner import picture_of
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 48, 3, padding=1), nn.Conv2d(48, 3, 3, padding=1)
        self.time = nn.Linear(1, 48)

    def forward(self, x, c_noise):
        shift = self.time(c_noise.to(x.dtype).reshape(-1, 1) - 1095.0)[:, :, None, None]
        return self.b(F.silu(self.a(x) + shift))


@pytest.fixture(scope="module")
def sampler():
    return resolve(model_around(random_weights(Network(), 0), 8, None))


def pictures(runner, sampler):
    with runner as run:
        return np.concatenate([picture_of(run(sampler.signature.draw(i))) for i in range(8)])


def rounded_by_hand(module, bits, *, activations=False):
    module, top = copy.deepcopy(module), 2 ** (bits - 1) - 1
    for layer in (module.network.a, module.network.b):
        with torch.no_grad():
            scale = layer.weight.abs().amax(dim=(1, 2, 3), keepdim=True) / top
            layer.weight.copy_((layer.weight / scale).round() * scale)
        if activations:

            def round_input(_layer, given):
                (x,) = given
                low, high = x.min().item(), x.max().item()
                return torch.fake_quantize_per_tensor_affine(
                    x, (high - low) / 255, round(-low / (high - low) * 255), 0, 255
                )

            layer.register_forward_pre_hook(round_input)
    return module


@pytest.mark.parametrize("precision", ["w8", "w6", "w4", "a16w8", "int8"])
def test_weights_are_rounded_to_nearest_per_channel(sampler, precision):
    bits = {"w6": 6, "w4": 4}.get(precision, 8)
    module = rounded_by_hand(sampler.module(), bits, activations=precision == "int8")
    with torch.no_grad():
        wanted = torch.cat([module(**sampler.signature.examples(i)) for i in range(8)]).numpy()
    exact = pictures(TorchRunner(sampler), sampler)
    found = pictures(PlainRunner(capture(sampler), precision), sampler)
    # Scales are stored in half precision, and a few elements round the other way.
    assert compare(exact, found).mean_db == pytest.approx(compare(exact, wanted).mean_db, abs=0.7)
    assert compare(wanted, found).mean_db > compare(exact, wanted).mean_db + 6


def test_bfloat16_is_the_modules_own_but_for_constants(sampler):
    module = copy.deepcopy(sampler.module()).bfloat16()
    exact = pictures(TorchRunner(sampler), sampler)
    with torch.no_grad():
        # c_noise is 1095.5 and would be 1096 in bfloat16: the time branch stays as it is.
        shift = sampler.model.network.time(torch.tensor([[sampler.plan.evaluations[0].c_noise - 1095.0]]))
        module.network.time.forward = lambda _: shift.bfloat16()
        noises = [sampler.signature.examples(i)["noise"].bfloat16() for i in range(8)]
        wanted = torch.cat([module(noise=noise).float() for noise in noises]).numpy()
    found = pictures(PlainRunner(capture(sampler), "fp16"), sampler)
    assert found.dtype == np.float32
    assert compare(exact, found).mean_db == pytest.approx(compare(exact, wanted).mean_db, abs=1.0)
