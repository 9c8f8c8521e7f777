from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.graph.tracing import to_module
from cmexport.quantize.centred.insertion import half_steps, with_centred_layers
from cmexport.quantize.codes import LayerCodes
from cmexport.quantize.layers import OPERATORS, Layer
from cmexport.quantize.simulation import Simulation

CONV = next(iter(OPERATORS.values()))


def _run(captured, noise):
    with torch.no_grad():
        return to_module(captured.program)(noise=noise)


def _by_hand(x, codes, stride, padding, bias):
    """Integer arithmetic on codes, in numpy; what lies outside has the code of zero."""
    step, zero = codes.step.double().numpy(), codes.zero_point.double().numpy()
    read = np.clip(np.rint(x / step[:, None, None]) + zero[:, None, None], 0, 255)
    (top, left), (down, right) = padding, stride
    whole = np.empty((len(step), x.shape[1] + 2 * top, x.shape[2] + 2 * left))
    whole[:] = zero[:, None, None]
    whole[:, top : top + x.shape[1], left : left + x.shape[2]] = read
    weight = codes.codes.double().numpy()
    high, wide = weight.shape[2:]
    rows = (whole.shape[1] - high) // down + 1
    columns = (whole.shape[2] - wide) // right + 1
    out = np.empty((len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = whole[:, i * down : i * down + high, j * right : j * right + wide] - zero[:, None, None]
            out[:, i, j] = np.tensordot(weight, patch, 3)
    return out * codes.weight_step.double().numpy()[:, None, None] + bias[:, None, None]


def test_a_convolution_computes_what_integers_by_hand_do_at_the_border_too(graph, codes, noise):
    module = to_module(graph.program)
    reach = next(b for n, b in module.named_buffers() if b.shape == (1, 64, 1, 1))
    x = torch.nn.functional.silu(noise * reach)[0].double().numpy()
    layer = codes[0].layer
    bias = next(p for n, p in module.named_parameters() if n.endswith("padded.bias")).detach().double().numpy()
    expected = _by_hand(x, codes[0], (1, 1), (1, 1), bias)

    seen = []
    changed = to_module(with_centred_layers(graph, codes[:1]).program)

    class Watching(torch.fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            if "centred_convolution" in str(n.target):
                seen.append(result[0].double().numpy())
            return result

    with torch.no_grad():
        Watching(changed).run(noise)
    (found,) = seen
    exact = torch.nn.functional.conv2d(torch.from_numpy(x).float()[None], layer.weight, padding=1)[0].double().numpy()
    rounding = np.abs(expected - (exact + bias[:, None, None])).max()
    # Half-precision factors move a value to the next code now and then: far less than rounding itself does.
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.1 * rounding
    corner = (slice(None), [0, 0, -1, -1], [0, -1, 0, -1])
    assert np.abs(found[corner] - expected[corner]).max() < rounding


def test_all_kinds_of_layers_do_what_the_simulation_does(graph, codes, noise):
    assert [c.layer.operator.kind for c in codes] == ["conv", "conv", "linear"]
    exact = _run(graph, noise)
    simulated = Simulation(graph).pictures([{"noise": noise}], codes)
    found = _run(with_centred_layers(graph, codes), noise)
    # Steps in half precision are up to 0.06 codes off at the end of a range: 3 % of all codes turn over there.
    assert (found - simulated).std() < 0.6 * (simulated - exact).std()
    assert 0.9 < (found - exact).std() / (simulated - exact).std() < 1.1


def test_the_given_graph_keeps_its_own_layers(graph, codes, noise):
    before = _run(graph, noise)
    with_centred_layers(graph, codes)
    assert torch.equal(_run(graph, noise), before)


def test_corrections_reach_the_bias(graph, codes, noise):
    shift = torch.linspace(-1, 1, 64)
    plain = _run(with_centred_layers(graph, codes[2:]), noise)
    moved = _run(with_centred_layers(graph, (replace(codes[2], bias=shift),)), noise)
    assert torch.allclose(moved - plain, shift.expand_as(moved), atol=1e-4)


def _codes(weight_step, step, zero):
    outputs, inputs = len(weight_step), len(step)
    whole = torch.randint(-127, 128, (outputs, inputs, 3, 3), generator=torch.Generator().manual_seed(0))
    layer = Layer("a", "spatial", ("a",), CONV, torch.zeros(outputs, inputs, 3, 3))
    return LayerCodes(layer, whole.to(torch.int8), weight_step, step, zero, None, torch.zeros(outputs))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.floats(-12, 1), min_size=1, max_size=5),
    st.lists(st.tuples(st.floats(-12, 2), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_every_number_is_one_that_half_precision_holds(weight_steps, inputs):
    weight_step = torch.tensor([10.0**w for w in weight_steps])
    step = torch.tensor([10.0**s for s, _ in inputs])
    zero = torch.tensor([float(z) for _, z in inputs])
    given_codes = _codes(weight_step, step, zero)
    found = half_steps(given_codes)
    for numbers in (torch.tensor(found.scale), found.factor, found.shift, found.weight_step):
        assert torch.isfinite(numbers).all()
        assert torch.equal(numbers.half().float(), numbers)
    assert torch.equal((found.shift / found.scale), zero - 128)
    assert (found.weight_step >= 2.0**-14).all()
    assert np.log2(found.scale).is_integer()
    # The weights stay what they were, to half a step where a row's step was raised, and 2^-11 where it was rounded.
    before = given_codes.codes.double() * weight_step.double().reshape(-1, 1, 1, 1)
    after = found.codes.double() * (found.weight_step.double() * found.scale).reshape(-1, 1, 1, 1)
    raised = weight_step / found.scale < 2.0**-14
    allowed = torch.where(raised, 0.5 * found.weight_step * found.scale, 127 * 2.0**-11 * weight_step)
    assert ((after - before).abs() <= 1.01 * allowed.double().reshape(-1, 1, 1, 1)).all()
    spread = (zero - 128).double().reshape(1, -1, 1, 1)
    torch.testing.assert_close(found.offset, (after * spread).flatten(1).sum(1))


def test_channels_that_are_always_zero_do_not_overflow():
    found = half_steps(_codes(torch.tensor([1e-5]), torch.tensor([1e-12, 0.02]), torch.tensor([0.0, 14.0])))
    assert torch.isfinite(found.factor.half()).all()
    assert found.factor[1] == pytest.approx(found.scale / 0.02, rel=1e-3)
