"""What calibration records, against hooks on the module itself, exact matrix products and known laws of maxima."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.eight_bits import random
from torch import nn

from cmexport.errors import CheckpointError
from cmexport.quantize.calibration import SEED, CalibrationOptions, Extremes, calibrate
from cmexport.quantize.layers import find_layers

PICTURES = 5


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Conv2d(3, 40, 3, padding=1)
        self.b = nn.Conv2d(40, 36, (3, 1), stride=2, padding=(1, 0))
        self.c = nn.Linear(36, 48, bias=False)

    def forward(self, noise):
        return self.c(self.b(torch.relu(self.a(noise)) - 0.1).flatten(2).transpose(1, 2))


@pytest.fixture(scope="module")
def net():
    return Net()


@pytest.fixture(scope="module")
def graph(toy, net):
    return toy(net, torch.zeros(2, 3, 6, 8))


@pytest.fixture(scope="module")
def found(graph):
    return calibrate(graph, find_layers(graph), CalibrationOptions(PICTURES, 3))


@pytest.fixture(scope="module")
def hooked(graph, net):
    """By module, the inputs and outputs of every picture, with channels first."""
    kept = {}

    def keep(name):
        def hook(module, args, y):
            first = (lambda t: t.transpose(0, 1)) if isinstance(module, nn.Conv2d) else (lambda t: t.movedim(-1, 0))
            kept.setdefault(name, []).append((first(args[0]).flatten(1), first(y).flatten(1)))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in net.named_children()]
    with torch.no_grad():
        for picture in range(PICTURES):
            net(**graph.examples(SEED + picture))
    for hook in hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_extremes_are_those_that_hooks_see(found, hooked, key):
    statistics = found.layers[key]
    assert found.pictures == PICTURES
    for side, (highest, negated) in enumerate((statistics.inputs, statistics.outputs)):
        pictures = [both[side] for both in hooked[key]]
        for extremes, sign in ((highest, 1), (negated, -1)):
            largest = torch.stack([(sign * p).amax(1) for p in pictures])
            torch.testing.assert_close(extremes.largest.float(), largest.amax(0), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(extremes.total, largest.double().sum(0), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(extremes.squares, (largest.double() ** 2).sum(0), rtol=1e-5, atol=1e-5)
            assert extremes.pictures == PICTURES
    for side, (low, high) in enumerate((statistics.input_range(), statistics.output_range())):
        pictures = [both[side] for both in hooked[key]]
        for limit, sign in ((high, 1), (-low, -1)):
            largest = torch.stack([(sign * p).amax(1) for p in pictures]).double()
            spread = (largest - largest.mean(0)).square().mean(0).sqrt() * math.sqrt(6) / math.pi
            gumbel = largest.mean(0) + spread * (math.log(1_200) - 0.57721566)
            expected = gumbel.maximum(largest.amax(0)).clamp_min(0)
            torch.testing.assert_close(limit.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_gram_is_the_sum_of_products(found, graph, net, key):
    """Written out with sliding windows in float64, and by what it says of the layer's own output."""
    inputs, outputs = [], []
    module = dict(net.named_children())[key]

    def keep(module, args, y):
        inputs.append(args[0])
        outputs.append(y)

    hook = module.register_forward_hook(keep)
    with torch.no_grad():
        for picture in range(3):
            net(**graph.examples(SEED + picture))
    hook.remove()
    columns = []
    for x in inputs:
        if key == "c":
            columns.append(x.double().flatten(0, 1))
            continue
        padded = nn.functional.pad(x.double(), (module.padding[1],) * 2 + (module.padding[0],) * 2)
        (kh, kw), (sh, sw) = module.kernel_size, module.stride
        windows = padded.unfold(2, kh, sh).unfold(3, kw, sw)
        columns.append(windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2))
    columns = torch.cat(columns)
    gram = found.layers[key].gram
    torch.testing.assert_close(gram.double(), columns.t() @ columns, rtol=1e-4, atol=1e-3)
    assert found.layers[key].positions == len(columns)
    matrix = module.weight.detach().flatten(1).double()
    bias = 0 if module.bias is None else module.bias.detach().double().reshape(1, -1, 1, 1)
    energy = sum(((y.double() - bias) ** 2).sum() for y in outputs)
    assert float((matrix @ gram.double() * matrix).sum()) == pytest.approx(float(energy), rel=1e-4)


def test_layers_too_wide_and_no_pictures_get_no_products(graph):
    layers = find_layers(graph)
    found = calibrate(graph, layers, CalibrationOptions(2, 1, large_gram_elements=36 * 36)).layers
    assert {k: s.gram is not None for k, s in found.items()} == {"a": True, "b": False, "c": True}
    found = calibrate(graph, layers, CalibrationOptions(2, 0)).layers
    assert all(s.gram is None and s.positions == 0 for s in found.values())
    # Products of at most as many pictures as were drawn.
    found = calibrate(graph, layers, CalibrationOptions(1, 7)).layers
    assert found["a"].positions == 2 * 6 * 8


def test_only_the_layers_asked_for_and_the_same_twice(graph, found):
    layers = [layer for layer in find_layers(graph) if layer.key == "b"]
    again = calibrate(graph, layers, CalibrationOptions(PICTURES, 3)).layers
    assert set(again) == {"b"}
    assert torch.equal(again["b"].gram, found.layers["b"].gram)
    assert torch.equal(again["b"].inputs[0].largest, found.layers["b"].inputs[0].largest)
    other = calibrate(graph, layers, CalibrationOptions(PICTURES, 3, seed=1)).layers
    assert not torch.equal(other["b"].inputs[0].largest, found.layers["b"].inputs[0].largest)


def test_steps_of_one_layer_are_seen_together(small_two_steps):
    layers = find_layers(small_two_steps)
    shared = next(layer for layer in layers if len(layer.nodes) == 2 and layer.role == "spatial")
    found = calibrate(small_two_steps, [shared], CalibrationOptions(3, 2)).layers[shared.key]
    assert found.inputs[0].pictures == 2 * 3
    assert found.positions == 2 * 2 * 8 * 8


def _maxima(law, pictures, positions, seed, channels=64):
    """The largest of `positions` independent numbers, per picture and channel, from their law's inverse."""
    u = torch.rand(pictures, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return law(u ** (1 / positions))


def _normal(p):
    return torch.special.ndtri(p)


def _exponential(p):
    return -torch.log1p(-p)


def _logistic(p):
    return torch.logit(p)


# Tails that fall off like exp(-x) are met; a normal law's fall off faster, and its maximum is foreseen too high.
@pytest.mark.parametrize(("law", "most"), [(_exponential, 1.05), (_logistic, 1.05), (_normal, 1.15)])
@pytest.mark.parametrize("positions", [64, 1024])
def test_the_maximum_over_twenty_times_more_pictures_is_foreseen(law, most, positions):
    extremes = Extremes.none(64)
    for values in _maxima(law, 200, positions, seed=0):
        extremes.add(values[None])
    many = _maxima(law, 1, positions * 4000, seed=1, channels=200_000).flatten()
    density, edges = torch.histogram(many.float(), bins=60)
    likely = float(edges[int(density.argmax())])
    foreseen = float(extremes.expected(4000).mean())
    assert 0.95 * likely <= foreseen <= most * likely
    assert foreseen > 1.1 * float((extremes.total / 200).mean())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(1, 10**5))
def test_what_is_expected_is_never_less_than_what_was_seen_nor_negative(pictures, count):
    extremes = Extremes.none(3)
    for values in pictures:
        extremes.add(torch.tensor([values]))
    expected = extremes.expected(count)
    assert expected.dtype == torch.float32
    assert bool((expected >= torch.tensor(pictures).amax(0)).all())
    assert bool((expected >= 0).all())
    assert bool(torch.isfinite(expected).all())
    if len({tuple(p) for p in pictures}) == 1:
        torch.testing.assert_close(expected, torch.tensor(pictures[0]).clamp_min(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("damage", "where", "key"),
    [
        (lambda n: n.b.weight.__setitem__((3, 2, 0, 0), math.nan), "output", "b"),
        (lambda n: n.b.bias.__setitem__(3, math.inf), "output", "b"),
        (lambda n: n.a.weight.__setitem__((0, 0, 0, 0), math.nan), "output", "a"),
    ],
    ids=["weight", "bias", "first"],
)
def test_nan_names_the_layer_it_comes_from(toy, damage, where, key):
    net = Net().requires_grad_(False)
    damage(net)
    graph = toy(net, torch.zeros(1, 3, 6, 8))
    with pytest.raises(CheckpointError) as refused:
        calibrate(graph, find_layers(graph), CalibrationOptions(2, 1))
    assert str(refused.value).startswith(f"calibration: the {where} of {key} is NaN or infinite")
    assert len(str(refused.value).splitlines()) <= 3


def test_nan_before_the_layer_is_its_input(toy):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 1)

        def forward(self, noise):
            return self.conv(torch.log(noise - 50))

    graph = toy(Broken(), random(1, 32, 2, 2))
    with pytest.raises(CheckpointError, match="the input of conv is NaN"):
        calibrate(graph, find_layers(graph), CalibrationOptions(1, 0))


def test_progress_is_told(graph):
    told = []
    calibrate(graph, find_layers(graph), CalibrationOptions(2, 1), told.append)
    assert told == ["calibrate 0/2"]
