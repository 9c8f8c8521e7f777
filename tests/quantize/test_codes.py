"""Steps, zero points and codes: what they can hold, how far off they are, and the same sums in whole numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.eight_bits import a_layer, exact_conv, exact_linear, random, statistics_of

from cmexport.quantize.codes import (
    CONVOLUTIONS,
    INTEGER_PRODUCTS,
    LAST,
    PER_TENSOR,
    SMALLEST,
    TOP,
    OutputCodes,
    RoundingOptions,
    Scheme,
    encode,
    with_bias,
)
from cmexport.quantize.least_squares import round_by_least_squares

SCHEMES = {
    "products": INTEGER_PRODUCTS,
    "convolutions": CONVOLUTIONS,
    "per tensor": PER_TENSOR,
    "own zeros, outputs": Scheme(outputs=True),
}
CHANNELS, OUT = 6, 5
limits = st.lists(st.floats(0, 1000, width=32), min_size=CHANNELS, max_size=CHANNELS).map(torch.tensor)


def encoded(low, high, scheme, options=None, weight=None, gram=None, seed=0):
    weight = random(OUT, CHANNELS, 3, 3, seed=seed) if weight is None else weight
    out = torch.ones(len(weight))
    return encode(
        a_layer(weight), statistics_of(low, high, -3 * out, 2 * out, gram), scheme, options or RoundingOptions()
    )


def inside(low, high, seed=0, n=200):
    """Values in each channel's range, its ends and zero among them, as (1, C, n, 1)."""
    share = torch.rand(len(low), n, generator=torch.Generator().manual_seed(seed))
    values = low[:, None] + share * (high - low)[:, None]
    values[:, 0], values[:, 1], values[:, 2] = low, high, 0
    return values[None, :, :, None]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@settings(deadline=None, max_examples=40)
@given(limits, limits, st.integers(0, 1000))
def test_inside_its_range_an_input_is_off_by_half_a_step_and_zero_not_at_all(scheme, below, above, seed):
    codes = encoded(-below, above, scheme)
    x = inside(-below, above, seed)
    read = codes.rounded_input(x)
    # A zero point is rounded too: at one end the range may lack up to half a step, as in every such format. A zero
    # point common to all is found among whole numbers, with the steps that it needs.
    allowed = (0.5 if scheme is CONVOLUTIONS else 1.0) * codes.step.reshape(1, -1, 1, 1)
    assert bool(((read - x).abs() <= allowed * 1.001 + 1e-5 * x.abs() + 1e-11).all())
    middle = (x - read).abs() <= 0.5001 * codes.step.reshape(1, -1, 1, 1) + 1e-5 * x.abs() + 1e-11
    ends = (x <= -below.reshape(1, -1, 1, 1) + allowed) | (x >= above.reshape(1, -1, 1, 1) - allowed)
    assert bool((middle | ends).all())
    assert float(codes.rounded_input(torch.zeros(1, CHANNELS, 2, 2)).abs().max()) == 0
    assert torch.equal(codes.zero_point, codes.zero_point.round())
    assert bool(((codes.zero_point >= 0) & (codes.zero_point <= LAST)).all())
    assert codes.zero_point.shape == codes.step.shape == (CHANNELS,)
    if not scheme.own_zeros:
        assert bool((codes.zero_point == codes.zero_point[0]).all())
    if not scheme.per_channel:
        assert bool((codes.step == codes.step[0]).all())


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@settings(deadline=None, max_examples=15)
@given(limits, limits, st.booleans(), st.integers(0, 1000))
def test_weight_codes_are_whole_small_and_near(scheme, below, above, least_squares, seed):
    x = random(300, CHANNELS * 9, seed=seed)
    gram = x.t() @ x
    codes = encoded(-below, above, scheme, RoundingOptions(least_squares=least_squares), gram=gram, seed=seed)
    assert codes.codes.dtype == torch.int8
    assert codes.codes.shape == (OUT, CHANNELS, 3, 3)
    assert int(codes.codes.abs().max()) <= TOP
    if not least_squares:
        # Every row uses its whole range, and no element is off by more than half a step of its row.
        if float((below + above).max()) > 1e-3:
            assert torch.equal(codes.codes.abs().flatten(1).amax(1), torch.full((OUT,), TOP, dtype=torch.int8))
        off = (codes.weight - codes.layer.weight) * codes.layer.spread(codes.step)
        assert bool((off.abs() <= 0.5001 * codes.weight_step.reshape(-1, 1, 1, 1) + 1e-12).all())
    assert bool((codes.bias == 0).all())
    assert (codes.output is not None) == scheme.outputs


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_a_convolutions_result_is_that_of_whole_numbers(scheme, stride, padding):
    low, high = -random(CHANNELS, seed=1).abs(), 3 * random(CHANNELS, seed=2).abs()
    codes = with_bias(encoded(low, high, scheme), random(OUT, seed=3))
    own = random(OUT, seed=4)
    x = inside(1.3 * low, 1.3 * high, n=2 * 7 * 5).reshape(CHANNELS, 2, 7, 5).transpose(0, 1)

    def multiply(x, weight=None, shift=None):
        return F.conv2d(x.double(), weight.double(), (own + shift).double(), stride=stride, padding=padding)

    expected = exact_conv(codes, x, own, stride, padding)
    found = codes.computed(x, multiply).double()
    apart = (found - expected).abs()
    # A sum that lies between two output codes may fall to either side.
    tipped = apart > 1e-5
    assert float(tipped.double().mean()) < (0.001 if scheme.outputs else 1e-9)
    if scheme.outputs:
        assert bool((apart <= 1.001 * codes.output.step.reshape(1, -1, 1, 1) + 1e-5).all())
    assert float(expected.std()) > 0.3


@pytest.mark.parametrize("scheme", [INTEGER_PRODUCTS, PER_TENSOR])
def test_a_linear_layers_result_is_that_of_whole_numbers(scheme):
    layer = a_layer(random(7, CHANNELS), "linear", "linear")
    low, high = -random(CHANNELS, seed=1).abs(), 3 * random(CHANNELS, seed=2).abs()
    codes = encode(layer, statistics_of(low, high, -torch.ones(7), torch.ones(7)), scheme, RoundingOptions())
    codes = with_bias(codes, random(7, seed=3))
    x = random(2, 9, CHANNELS, seed=4, spread=2)
    found = codes.computed(x, lambda x, weight, shift: F.linear(x.double(), weight.double(), shift.double()))
    torch.testing.assert_close(found, exact_linear(codes, x), rtol=1e-5, atol=1e-5)


def test_least_squares_meets_the_inputs_in_the_layers_own_units():
    """The Gram matrix is of inputs, the rounded matrix has their steps multiplied in."""
    low, high = -torch.ones(CHANNELS), torch.tensor([1.0, 2, 4, 8, 16, 32])
    x = random(500, 4, seed=5) @ random(4, CHANNELS * 9, seed=6) + 0.1 * random(500, CHANNELS * 9, seed=7)
    x *= (high - low).repeat_interleave(9) / 4
    errors = {}
    for least_squares in (True, False):
        codes = encoded(low, high, INTEGER_PRODUCTS, RoundingOptions(least_squares=least_squares), gram=x.t() @ x)
        off = (codes.weight - codes.layer.weight).flatten(1).double()
        errors[least_squares] = float(((x.double() @ off.t()) ** 2).sum())
    assert errors[True] < 0.4 * errors[False]
    codes = encoded(low, high, INTEGER_PRODUCTS, gram=x.t() @ x)
    spread = codes.step.repeat_interleave(9)
    in_steps = x / spread
    rows = codes.layer.weight.flatten(1) * spread
    expected = round_by_least_squares(rows, in_steps.t() @ in_steps, rows.abs().amax(1) / TOP, TOP)
    assert float((codes.codes.flatten(1) == expected).double().mean()) > 0.97


@settings(deadline=None, max_examples=20)
@example(1e-30 * torch.eye(CHANNELS)[0], torch.zeros(CHANNELS), 0)
@given(limits, limits, st.integers(0, 100))
def test_the_common_zero_point_is_the_best_of_all(below, above, seed):
    weight = random(OUT, CHANNELS, 3, 3, seed=seed)
    codes = encoded(-below, above, CONVOLUTIONS, weight=weight)
    reach = weight.abs().amax(dim=(0, 2, 3)).double()
    if not bool(below.any()):
        assert bool((codes.zero_point == 0).all())
        torch.testing.assert_close(codes.step, (above / LAST).clamp_min(SMALLEST))
        return

    def harm(zero):
        steps = torch.maximum(above.double() / (LAST - zero), below.double() / zero)
        return float(((steps * reach) ** 2).sum())

    assert harm(float(codes.zero_point[0])) <= min(harm(float(z)) for z in range(1, LAST)) * (1 + 1e-4)


@pytest.mark.parametrize("scheme", [CONVOLUTIONS, INTEGER_PRODUCTS], ids=["convolutions", "products"])
def test_behind_a_relu_all_codes_are_for_what_is_above_0(scheme):
    low, high = torch.full((CHANNELS,), -0.3), 1 + random(CHANNELS).abs()
    layer = replace(a_layer(random(OUT, CHANNELS, 3, 3)), rectified=True)
    codes = encode(layer, statistics_of(low, high, torch.zeros(OUT), torch.ones(OUT)), scheme, RoundingOptions())
    assert bool((codes.zero_point == 0).all())
    torch.testing.assert_close(codes.step, high / LAST)


def test_balance_trades_steps_of_channels_with_small_weights():
    low, high = -torch.ones(CHANNELS), torch.ones(CHANNELS)
    weight = random(OUT, CHANNELS, 3, 3) * torch.tensor([1, 1, 1, 0.01, 0.01, 0.01]).reshape(1, -1, 1, 1)
    finest = encoded(low, high, INTEGER_PRODUCTS, RoundingOptions(balance=1.0), weight)
    balanced = encoded(low, high, INTEGER_PRODUCTS, RoundingOptions(balance=0.5), weight)
    torch.testing.assert_close(finest.step, torch.full((CHANNELS,), 2 / LAST))
    assert bool((balanced.step >= finest.step * 0.999).all())
    assert bool((balanced.step[3:] > 3 * balanced.step[:3].max()).all())
    small = [(c.weight - weight)[:, 3:].abs().mean() for c in (finest, balanced)]
    assert float(small[1]) < 0.5 * float(small[0])


def test_a_margin_widens_the_range():
    low, high = -torch.ones(CHANNELS), 2 * torch.ones(CHANNELS)
    x = torch.full((1, CHANNELS, 1, 1), 2.9)
    cut, kept = (encoded(low, high, INTEGER_PRODUCTS, RoundingOptions(margin=m)).rounded_input(x) for m in (1.0, 1.5))
    assert float(cut.max()) < 2.02
    torch.testing.assert_close(kept, x, rtol=0, atol=0.01)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_channels_that_were_never_anything_but_zero(scheme):
    low, high = -random(CHANNELS, seed=1).abs(), random(CHANNELS, seed=2).abs()
    low[2] = high[2] = 0
    x = random(300, CHANNELS, 9, seed=3)
    x[:, 2] = 0
    gram = x.flatten(1).t() @ x.flatten(1)
    for weight in (None, random(OUT, CHANNELS, 3, 3) * (torch.arange(OUT) != 1).reshape(-1, 1, 1, 1)):
        codes = encoded(low, high, scheme, weight=weight, gram=gram)
        for numbers in (codes.weight, codes.step, codes.zero_point, codes.weight_step):
            assert bool(torch.isfinite(numbers).all())
        assert bool((codes.step > 0).all())
        assert bool((codes.weight_step > 0).all())
        given = inside(low, high)
        assert float(codes.rounded_input(given)[:, 2].abs().max()) == 0
    nothing = encoded(torch.zeros(CHANNELS), torch.zeros(CHANNELS), scheme)
    assert bool(torch.isfinite(nothing.rounded_input(torch.zeros(1, CHANNELS, 2, 2))).all())


@settings(deadline=None, max_examples=60)
@given(limits, limits)
def test_outputs_are_off_by_half_a_step(below, above):
    layer = a_layer(random(CHANNELS, 4, 1, 1))
    statistics = statistics_of(-torch.ones(4), torch.ones(4), -below, above)
    output = encode(layer, statistics, CONVOLUTIONS, RoundingOptions()).output
    y = inside(-below, above)
    step = output.step.reshape(1, -1, 1, 1)
    assert bool(((output.rounded(layer, y) - y).abs() <= 1.001 * step + 1e-5 * y.abs()).all())
    torch.testing.assert_close(output.step, ((below + above) / 255).clamp_min(1e-12))
    assert bool((output.rounded(layer, torch.zeros_like(y)) == 0).all())


def test_beyond_the_range_an_output_is_cut_off():
    layer = a_layer(random(2, 4, 1, 1))
    output = OutputCodes(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 128.0]))
    y = torch.tensor([[[[300.0, -4.0]], [[300.0, -300.0]]]])
    assert output.rounded(layer, y).flatten().tolist() == [255.0, 0.0, 63.5, -64.0]


def test_a_correction_is_added_and_nothing_else_changes():
    codes = encoded(-torch.ones(CHANNELS), torch.ones(CHANNELS), INTEGER_PRODUCTS)
    shift = random(OUT, seed=8)
    moved = with_bias(codes, shift)
    assert torch.equal(moved.bias, shift)
    assert replace(moved, bias=codes.bias).codes is codes.codes
    x = random(1, CHANNELS, 4, 4)

    def multiply(x, weight, shift):
        return F.conv2d(x, weight, shift)

    apart = moved.computed(x, multiply) - codes.computed(x, multiply)
    torch.testing.assert_close(apart, shift.reshape(1, -1, 1, 1).expand_as(apart), rtol=1e-4, atol=1e-5)
