"""fold_scales: c_in sigma, c_out and fixed offsets are inside weights; c_skip sigma stays one scaled add."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cmexport.graph.fxtools import Editor, aten, attribute, operation_count
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.rewrites.fold_scales import REWRITE
from cmexport.graph.rewriting import apply_rewrites, select
from cmexport.graph.tracing import to_module, trace
from cmexport.sampling.preconditioning import cm


def fold(network, **inputs):
    module = to_module(trace(network.eval().requires_grad_(False), inputs))
    editor = Editor(module)
    outcome = REWRITE.apply(editor)
    editor.clean()
    return module, outcome


def operators(module):
    return [n.target for n in module.graph.nodes if n.op == "call_function"]


def test_preconditioning_is_inside_the_first_and_last_convolution(adm_model, captured):
    model = adm_model(channel_mult=(1,), num_classes=None)
    module = to_module(apply_rewrites(captured(model), [REWRITE]).program)
    scalings = cm(80.0, model.noise)
    convolutions = [n for n in module.graph.nodes if n.target is aten.conv2d.default]
    first, last = (attribute(module, n.args[1]) for n in (convolutions[0], convolutions[-1]))
    network = model.network
    torch.testing.assert_close(first, network.input_blocks[0][0].weight * (scalings.c_in * 80.0), rtol=2e-7, atol=0)
    torch.testing.assert_close(last, network.out[2].weight * scalings.c_out, rtol=2e-7, atol=0)
    # Zero padding stays zero, so the first bias is untouched; the last one is scaled.
    assert torch.equal(attribute(module, convolutions[0].args[2]), network.input_blocks[0][0].bias)
    torch.testing.assert_close(
        attribute(module, convolutions[-1].args[2]), network.out[2].bias * scalings.c_out, rtol=2e-7, atol=0
    )


def test_c_skip_is_the_only_multiplication_of_the_picture_left(adm_model, captured):
    model = adm_model(channel_mult=(1,), num_classes=None)
    chain = select(REWRITES, "share_common,fold_constants,fold_scales,merge_affine_norm")
    module = to_module(apply_rewrites(captured(model), chain).program)
    products = [n for n in module.graph.nodes if n.target is aten.mul.Tensor]
    assert [n.args[1] for n in products] == [pytest.approx(0.0031250344, rel=1e-6)]
    assert products[0].args[0].name == "noise"


class Offset(nn.Module):
    """conv(x) times a number plus a fixed value per channel, twice over."""

    def __init__(self, bias=True, shape=(1, 4, 1, 1)):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=bias)
        self.register_buffer("offset", torch.randn(shape))

    def forward(self, noise):
        return torch.sigmoid(2.0 * self.conv(noise * 0.5) + self.offset)


@pytest.mark.parametrize("bias", [True, False])
def test_factors_and_offsets_around_a_convolution(bias):
    torch.manual_seed(0)
    network = Offset(bias)
    x = torch.randn(2, 3, 5, 5)
    module, outcome = fold(network, noise=x)
    assert operators(module) == [aten.conv2d.default, aten.sigmoid.default]
    assert outcome.applied == 3
    torch.testing.assert_close(module(noise=x), network(x))


def test_an_offset_per_pixel_is_not_a_bias():
    network = Offset(shape=(1, 4, 5, 5))
    x = torch.randn(1, 3, 5, 5)
    module, _ = fold(network, noise=x)
    assert aten.add.Tensor in operators(module)
    torch.testing.assert_close(module(noise=x), network(x))


class Shared(nn.Module):
    """The convolution's result and the scaled input are both used elsewhere."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, noise):
        scaled = noise * 0.5
        result = self.conv(scaled)
        return result * 3.0 + torch.sigmoid(result) + scaled


def test_values_with_other_users_stay():
    network = Shared()
    x = torch.randn(1, 3, 4, 4)
    module, outcome = fold(network, noise=x)
    assert outcome.applied == 0
    assert operation_count(module) == 6
    torch.testing.assert_close(module(noise=x), network(x))


class Twice(nn.Module):
    """One convolution under two different factors, as an unrolled two-step sampler has it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, noise):
        return torch.sigmoid(self.conv(torch.sigmoid(self.conv(noise * 0.5)) * 0.25))


def test_a_shared_weight_is_scaled_per_use():
    network = Twice()
    original = network.conv.weight.clone()
    x = torch.randn(1, 3, 4, 4)
    module, outcome = fold(network, noise=x)
    assert outcome.applied == 2
    assert aten.mul.Tensor not in operators(module)
    torch.testing.assert_close(module(noise=x), network(x))
    assert torch.equal(network.conv.weight, original)
