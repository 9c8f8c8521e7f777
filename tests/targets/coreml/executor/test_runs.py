"""Sums in runs of 32, rounded and flushed one after the other: against a loop over single numbers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from cmexport.targets.coreml.executor import Executor, read_program
from cmexport.targets.coreml.executor.ops import convolution

RUN = 32
SMALLEST_NORMAL = 2.0**-14


def rounded(value, mode):
    """A number as a compute unit holds it. float64 to half in one step; all sums below are exact in float32 too."""
    half = float(np.float16(value))
    return 0.0 if mode == "ftz" and abs(half) < SMALLEST_NORMAL else half


def added(products, mode):
    """Runs summed exactly, each rounded, then added one after the other."""
    runs = [rounded(sum(products[i : i + RUN]), mode) for i in range(0, len(products), RUN)]
    total = runs[0]
    for run in runs[1:]:
        total = rounded(total + run, mode)
    return total


def scalar_convolution(x, weight, strides, dilations, groups, mode):
    """Cell after cell of the kernel, number by number; x is padded already."""
    n, outs = x.shape[0], weight.shape[0]
    width = weight.shape[1]
    axes = range(x.ndim - 2)
    sizes = [(x.shape[2 + i] - (weight.shape[2 + i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in axes]
    result = np.zeros((n, outs, *sizes))
    for picture, out, *place in product(range(n), range(outs), *map(range, sizes)):
        first = out // (outs // groups) * width
        total = None
        for cell in product(*map(range, weight.shape[2:])):
            at = tuple(p * s + c * d for p, s, c, d in zip(place, strides, cell, dilations, strict=True))
            terms = [float(x[(picture, first + c, *at)]) * float(weight[(out, c, *cell)]) for c in range(width)]
            cell_sum = added(terms, mode)
            total = cell_sum if total is None else rounded(total + cell_sum, mode)
        result[(picture, out, *place)] = total
    return result.astype(np.float16)


def coarse(seed, *shape):
    """Normal halves of about 2^-9 with four bits: 32 products are about 2^-15, exact in float32 in any order."""
    draw = np.random.default_rng(seed)
    return (draw.integers(-15, 16, shape) * 2.0 ** draw.integers(-14, -9, shape)).astype(np.float16)


CONVOLUTIONS = {
    "two runs": ((1, 64, 5, 4), (6, 64, 3, 3), {}, 1),
    "a short last run": ((1, 70, 3, 3), (4, 70, 2, 2), {}, 1),
    "three channels": ((1, 3, 5, 5), (8, 3, 3, 3), {"strides": [2, 2]}, 1),
    "groups, two pictures": ((2, 80, 4, 5), (6, 40, 2, 3), {"dilations": [1, 2]}, 2),
    "depthwise": ((1, 6, 4, 4), (6, 1, 3, 3), {}, 6),
    "one axis": ((2, 33, 9), (5, 33, 3), {"strides": [2], "dilations": [2]}, 1),
    "three axes": ((1, 34, 3, 3, 2), (2, 34, 2, 2, 2), {}, 1),
}


@pytest.mark.parametrize("mode", ["fp16", "ftz"])
@pytest.mark.parametrize("at_once", [1, 2**20], ids=["cell by cell", "all cells"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_is_the_loop_over_its_products(save_mil, mb, monkeypatch, case, mode, at_once):
    """Half of the results are around the smallest normal number, where `ftz` flushes, and half are large."""
    monkeypatch.setattr(convolution, "_LARGEST_PRODUCT", at_once)
    shape, kernel, more, groups = CONVOLUTIONS[case]
    x, weight = coarse(1, *shape), coarse(2, *kernel)
    weight[kernel[0] // 2 :] *= np.float16(2.0**13)
    path = save_mil(lambda x: [mb.conv(x=x, weight=weight, groups=groups, **more)], {"x": x})
    axes = len(shape) - 2
    expected = scalar_convolution(
        x, weight, more.get("strides", [1] * axes), more.get("dilations", [1] * axes), groups, mode
    )
    executor = Executor(read_program(path), mode=mode)
    for _ in range(2):  # the second call has its weights prepared
        (found,) = executor({"x": x}).values()
        assert np.array_equal(found, expected)
    (anew,) = Executor(read_program(path), mode=mode, low_memory=True)({"x": x}).values()
    assert np.array_equal(anew, expected)


def test_the_oracle_tells_the_modes_apart():
    x, weight = coarse(1, 1, 64, 5, 4), coarse(2, 6, 64, 3, 3)
    fp16, ftz = (scalar_convolution(x, weight, [1, 1], [1, 1], 1, mode) for mode in ("fp16", "ftz"))
    assert (fp16 != ftz).mean() > 0.5


@pytest.mark.parametrize("mode", ["fp16", "ftz"])
def test_a_bias_and_a_matrix_product_round_as_the_loop_does(save_mil, mb, mode):
    x, weight, bias = coarse(3, 3, 75), coarse(4, 5, 75), coarse(5, 5)
    products = np.array(
        [[added([float(a) * float(b) for a, b in zip(row, w, strict=True)], mode) for w in weight] for row in x]
    )
    with_bias = np.vectorize(lambda v: rounded(v, mode))(products + bias.astype(np.float64))

    def build(x):
        yield mb.matmul(x=x, y=np.ascontiguousarray(weight.T))
        yield mb.linear(x=x, weight=weight, bias=bias)

    found = list(Executor(read_program(save_mil(build, {"x": x})), mode=mode)({"x": x}).values())
    assert np.array_equal(found[0], products.astype(np.float16))
    assert np.array_equal(found[1], with_bias.astype(np.float16))
