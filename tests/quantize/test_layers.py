"""Layers are found under the names that the network's modules have, and interpreters can replace what they compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.eight_bits import a_layer, random
from torch import nn

from cmexport.checkpoints import load_checkpoint
from cmexport.demo import demo_checkpoint
from cmexport.graph.evaluate import run_picture
from cmexport.graph.tracing import to_module
from cmexport.quantize.layers import LayerInterpreter, find_layers
from cmexport.quantize.weights import LEAST_ELEMENTS


@pytest.fixture(scope="module")
def layers(demo):
    return find_layers(demo)


def test_the_demos_layers_have_the_names_of_its_modules(layers):
    network = load_checkpoint(demo_checkpoint()).network
    modules = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)}
    assert [layer.key for layer in layers] == [n for n, m in modules.items() if m.weight.numel() >= LEAST_ELEMENTS]
    assert {"input_blocks.1.0.in_layers.2", "input_blocks.4.1.qkv", "out.2"} <= set(modules)
    for layer in layers:
        module = modules[layer.key]
        assert layer.weight.shape[:2] == module.weight.shape[:2]
        assert layer.weight.numel() == module.weight.numel()
        sides = {module.in_channels, module.out_channels}
        kernel = module.weight[0, 0].numel()
        assert layer.role == ("picture" if 3 in sides else "pointwise" if kernel == 1 else "spatial")
        assert len(layer.nodes) == 1
    # No rewrite touches the convolutions inside a block.
    same = next(layer for layer in layers if layer.key == "input_blocks.1.0.in_layers.2")
    assert torch.equal(same.weight, modules[same.key].weight)
    assert same.channels == 64
    assert same.elements_per_channel == 9


def test_steps_share_their_layers_and_copies_are_counted(layers, two_steps):
    two = {layer.key: layer for layer in find_layers(two_steps)}
    # The scales of each step are folded into copies of the first and last convolution.
    copies = {key for key in two if "#" in key}
    assert copies == {"input_blocks.0.0#2", "out.2#2"}
    assert set(two) - copies == {layer.key for layer in layers}
    for key, layer in two.items():
        assert len(layer.nodes) == (1 if key.startswith(("input_blocks.0.0", "out.2")) else 2)
    assert not torch.equal(two["input_blocks.0.0"].weight, two["input_blocks.0.0#2"].weight)
    nodes = [name for layer in two.values() for name in layer.nodes]
    assert len(set(nodes)) == len(nodes) == 2 * len(layers)


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.plain = nn.Conv2d(16, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 64, 3, padding=1, groups=2)
        self.dilated = nn.Conv2d(64, 16, 3, padding=2, dilation=2)
        self.tiny = nn.Conv2d(16, 16, 1)
        self.point = nn.Conv2d(16, 64, 1)
        self.linear = nn.Linear(64, 32)
        self.last = nn.Conv2d(32, 3, 5, padding="same")
        self.end = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, noise):
        x = self.tiny(self.dilated(self.grouped(self.plain(self.first(noise)))))
        x = self.linear(self.point(x).permute(0, 2, 3, 1))
        return self.end(self.last(x.permute(0, 3, 1, 2)))


def test_what_no_target_can_compute_is_left_out(toy):
    found = {layer.key: layer.role for layer in find_layers(toy(Several(), torch.zeros(1, 3, 6, 6)))}
    assert found.pop("linear") == "linear"
    # 432, 256 and 81 elements are not worth it; groups and dilation have no form.
    assert {k for k in found if k != "last"} == {"plain", "point"}
    assert (found["plain"], found["point"]) == ("spatial", "pointwise")


class Block(nn.Module):
    """A transformer's: four layers read a norm or a sum, one reads what attention hands on."""

    def __init__(self, spelled_out):
        super().__init__()
        self.spelled_out = spelled_out
        self.q, self.k, self.v, self.out, self.mlp = (nn.Linear(32, 32) for _ in range(5))
        self.drop = nn.Dropout(0.5)

    def forward(self, noise):
        n, c, h, w = noise.shape
        x = F.layer_norm(noise.flatten(2).transpose(1, 2), [c])
        q, k, v = (f(x).reshape(n, h * w, 2, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        plain = F.scaled_dot_product_attention
        mixed = (q @ k.transpose(2, 3)).softmax(-1) @ v if self.spelled_out else plain(q, k, v)
        x = x + self.out(self.drop(mixed.transpose(1, 2).reshape(n, h * w, c)))
        return self.mlp(x).transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize("spelled_out", [True, False])
def test_what_attention_hands_on_is_known(toy, spelled_out):
    found = find_layers(toy(Block(spelled_out).eval(), torch.randn(1, 32, 2, 2)))
    assert len(found) == 5
    assert [layer.key for layer in found if layer.attended] == ["out"]


class Rectified(nn.Module):
    """Convolutions behind a ReLU, behind an enlarged one, behind a sum with one, behind none."""

    def __init__(self):
        super().__init__()
        self.near, self.large, self.sum, self.none = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))

    def forward(self, noise):
        x = F.relu(self.near(F.relu(noise)))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.none(self.sum(F.relu(self.large(x)) - x))


def test_what_comes_from_a_relu_is_known(toy):
    found = find_layers(toy(Rectified(), torch.randn(1, 16, 2, 2)))
    assert {layer.key: layer.rectified for layer in found} == {"near": True, "large": True, "sum": False, "none": False}


class Twice(nn.Module):
    """Two weights under one name: those of a module that a rewrite would have replaced."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(random(32, 32, 1, 1))
        self.two = nn.Parameter(random(32, 32, 1, 1, seed=1))

    def forward(self, noise):
        return F.conv2d(F.conv2d(noise, self.one), self.two)


def test_no_two_layers_have_one_key(toy):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Twice()

        def forward(self, noise):
            return self.block(self.block(noise))

    first, second = find_layers(toy(Outer(), torch.zeros(1, 32, 2, 2)))
    assert (first.key, second.key) == ("block", "block#2")
    assert torch.equal(first.weight, random(32, 32, 1, 1))
    assert len(first.nodes) == len(second.nodes) == 2
    assert not set(first.nodes) & set(second.nodes)


def test_rows_and_shapes_meet_what_they_say():
    conv, linear = a_layer(random(6, 5, 3, 2)), a_layer(random(6, 5), "linear", "linear")
    x = random(2, 5, 3, 4, seed=1)
    assert torch.equal(conv.rows(x), torch.stack([x[:, c].flatten() for c in range(5)]))
    tokens = random(2, 7, 5, seed=2)
    assert torch.equal(linear.rows(tokens), torch.stack([tokens[..., c].flatten() for c in range(5)]))
    numbers = torch.arange(5.0)
    assert (conv.elements_per_channel, linear.elements_per_channel) == (6, 1)
    for o, c in ((0, 0), (5, 4)):
        assert torch.equal((conv.weight * conv.spread(numbers))[o, c], conv.weight[o, c] * c)
        assert torch.equal((linear.weight * linear.spread(numbers))[o, c], linear.weight[o, c] * c)
    assert torch.equal((x * conv.along(numbers))[:, 3], x[:, 3] * 3)
    assert torch.equal((tokens * linear.along(numbers))[..., 3], tokens[..., 3] * 3)


def test_an_interpreter_can_change_input_weight_and_bias(toy):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 64, 3, stride=2, padding=1)
            self.b = nn.Conv2d(64, 32, 1, bias=False)
            self.c = nn.Linear(32, 48)

        def forward(self, noise):
            return self.c(self.b(self.a(noise)).flatten(2).transpose(1, 2))

    net = Net()
    captured = toy(net, torch.zeros(1, 3, 6, 6))
    layers = find_layers(captured)
    shifts = {layer.key: random(len(layer.weight), seed=3) for layer in layers}
    heard = []

    def at(layer, node, x, multiply):
        heard.append((layer.key, node.name))
        assert torch.equal(multiply(x), multiply(x, layer.weight))
        return multiply(2 * x, layer.weight.flip(0), shifts[layer.key])

    inputs = captured.examples(4)
    result = run_picture(LayerInterpreter(to_module(captured.program), layers, at), inputs)
    w = {k: m.weight.flip(0) for k, m in net.named_children()}
    a = F.conv2d(2 * inputs["noise"], w["a"], net.a.bias + shifts["a"], stride=2, padding=1)
    b = F.conv2d(2 * a, w["b"], shifts["b"])
    torch.testing.assert_close(
        result, F.linear(2 * b.flatten(2).transpose(1, 2), w["c"], net.c.bias + shifts["c"]), rtol=1e-5, atol=1e-4
    )
    assert heard == [(layer.key, layer.nodes[0]) for layer in layers]
