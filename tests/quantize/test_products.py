"""Sums of products of patches, against the patches themselves multiplied in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.eight_bits import random
from torch import fx

from cmexport.graph.fxtools import aten
from cmexport.quantize.layers import OPERATORS, Layer
from cmexport.quantize.products import GATHERED, Products


def convolution(kernel, stride, padding, channels=3):
    """A layer of two output channels, and its node."""
    weight = random(2, channels, *kernel, seed=1)
    graph = fx.Graph()
    x, w = graph.placeholder("x"), graph.placeholder("w")
    node = graph.call_function(aten.conv2d.default, (x, w, None, list(stride), list(padding)))
    return Layer("a", "spatial", (node.name,), OPERATORS[aten.conv2d.default], weight), node


def plain(x, kernel, stride, padding):
    """The patches (positions, K) in float64."""
    columns = F.unfold(x.double(), kernel, padding=padding, stride=stride)
    return columns.transpose(1, 2).flatten(0, 1)


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 2)),
    size=st.tuples(st.integers(5, 11), st.integers(4, 9)),
    counts=st.lists(st.integers(1, GATHERED + 3), min_size=1, max_size=3),
)
def test_products_are_those_of_the_patches(kernel, stride, padding, size, counts):
    layer, node = convolution(kernel, stride, padding)
    products = Products(layer)
    inputs = [random(count, 3, *size, seed=i) for i, count in enumerate(counts)]
    for x in inputs:
        products.add(node, x)
    patches = torch.cat([plain(x, kernel, stride, padding) for x in inputs])
    torch.testing.assert_close(products.total().double(), patches.t() @ patches, rtol=1e-4, atol=1e-3)
    assert products.positions == len(patches)


@pytest.mark.parametrize("height", [1, 2])
def test_pictures_lower_than_the_kernel_reaches(height):
    layer, node = convolution((5, 3), (1, 1), (2, 1))
    products = Products(layer)
    x = random(2, 3, height, 6, seed=0)
    products.add(node, x)
    patches = plain(x, (5, 3), (1, 1), (2, 1))
    torch.testing.assert_close(products.total().double(), patches.t() @ patches, rtol=1e-4, atol=1e-3)


def test_nodes_of_other_strides_and_sizes_are_summed():
    layer, node = convolution((3, 3), (1, 1), (1, 1))
    _, other = convolution((3, 3), (2, 2), (0, 0))
    products = Products(layer)
    assert not products.begun
    large, small = random(1, 3, 9, 9, seed=0), random(1, 3, 7, 5, seed=1)
    products.add(node, large)
    products.add(node, small)
    products.add(other, small)
    patches = torch.cat([plain(x, (3, 3), (1, 1), (1, 1)) for x in (large, small)])
    patches = torch.cat([patches, plain(small, (3, 3), (2, 2), (0, 0))])
    torch.testing.assert_close(products.total().double(), patches.t() @ patches, rtol=1e-4, atol=1e-3)
    assert products.begun
