"""Predictions against what happens: weights are changed for real and the pictures compared."""

from __future__ import annotations

import math

import pytest
import torch

from cmexport.graph.tracing import to_module
from cmexport.quantize.formats import PALETTES
from cmexport.quantize.rounding import rounded
from cmexport.quantize.sensitivity import activation_sensitivity, run_unfinished, weight_sensitivity
from cmexport.quantize.weights import find_weights, set_weights, weights_by_name


def _error(captured, values, pictures=12):
    before, after = to_module(captured.program), to_module(captured.program)
    set_weights(after, values)
    total = 0.0
    with torch.no_grad():
        for seed in range(pictures):
            inputs = captured.examples(900 + seed)
            difference = run_unfinished(after, inputs)[0] - run_unfinished(before, inputs)[0]
            total += float((difference**2).mean()) / pictures
    return total


@pytest.mark.parametrize("which", [0, 30, -1])
def test_the_predicted_error_of_a_rounded_layer_is_the_measured_one(demo, weights, sensitivity, which):
    weight, share = weights[which], sensitivity[which]
    new = rounded(weight.value, share, PALETTES[2])
    predicted = float((share * (new - weight.value) ** 2).sum())
    measured = _error(demo, dict.fromkeys(weight.names, new))
    assert abs(10 * math.log10(predicted / measured)) < 4


def test_the_last_layer_has_the_closed_form(demo, weights, sensitivity):
    """y = conv(h, w): the mean of squared gradients is what random projections of a linear map give exactly."""
    weight, share = weights[-1], sensitivity[-1]
    generator = torch.Generator().manual_seed(3)
    noise = 1e-3 * torch.randn(weight.value.shape, generator=generator)
    predicted = float(1e-6 * share.sum())
    assert _error(demo, {weight.names[0]: weight.value + noise}) == pytest.approx(predicted, rel=0.5)


def test_steps_share_their_weights(two_steps):
    weights = find_weights(to_module(two_steps.program))
    one = find_weights(to_module(two_steps.program))
    assert len(weights) == len({w.names for w in one})
    # First and last layers hold the step's own coefficients; the rest is the same tensor, however often it is folded.
    assert sum(w.value.numel() for w in weights) < 1.02 * 6_700_416


def test_activation_sensitivity_predicts_added_noise(demo):
    module = to_module(demo.program)
    names = [n.name for n in module.graph.nodes if n.op == "call_function" and "silu" in str(n.target)]
    name = names[len(names) // 2]
    (share,) = activation_sensitivity(demo, [name], samples=16)
    spread = 1e-3
    total = 0.0
    node = next(n for n in module.graph.nodes if n.name == name)
    noisy = to_module(demo.program)
    target = next(n for n in noisy.graph.nodes if n.name == name)
    noisy.register_buffer("extra", torch.zeros(tuple(node.meta["val"].shape)))
    with noisy.graph.inserting_after(target):
        extra = noisy.graph.get_attr("extra")
    with noisy.graph.inserting_after(extra):
        added = noisy.graph.call_function(torch.ops.aten.add.Tensor, (target, extra))
    target.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    noisy.recompile()
    with torch.no_grad():
        for seed in range(12):
            generator = torch.Generator().manual_seed(seed)
            noisy.extra.copy_(spread * torch.randn(noisy.extra.shape, generator=generator))
            inputs = demo.examples(900 + seed)
            difference = run_unfinished(noisy, inputs)[0] - run_unfinished(module, inputs)[0]
            total += float((difference**2).mean()) / 12
    assert total == pytest.approx(share * spread**2, rel=0.4)


def test_the_graph_is_left_as_it_was(demo, weights, sensitivity):
    assert not any(p.requires_grad for p in demo.program.state_dict.values())


def test_it_is_the_mean_of_squared_gradients_in_half_the_memory_too(demo, weights):
    """torch's own gradients, all at once; bfloat16 holds 8 bits of them."""
    some = (weights[0], weights[len(weights) // 2], weights[-1])
    module = to_module(demo.program)
    tensors = [weights_by_name(module)[w.names[0]].requires_grad_(True) for w in some]
    expected = [torch.zeros_like(w.value) for w in some]
    for sample in range(2):
        picture, _ = run_unfinished(module, demo.examples(sample))
        direction = torch.randn(picture.shape, generator=torch.Generator().manual_seed(7919 * (sample + 1)))
        for total, g in zip(expected, torch.autograd.grad((direction * picture).sum(), tensors), strict=True):
            total += g**2 / picture.numel() / 2
    for tensor in tensors:
        tensor.requires_grad_(False)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        found = weight_sensitivity(demo, some, samples=2, dtype=dtype)
        assert all(f.dtype == dtype for f in found)
        for f, e in zip(found, expected, strict=True):
            assert torch.allclose(f.float(), e, rtol=tolerance, atol=float(e.max()) * 1e-6)
