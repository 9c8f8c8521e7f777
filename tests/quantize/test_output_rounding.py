"""The outputs that are predicted to harm the picture most, against what rounding each of them alone does to it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from support.eight_bits import Watching

from cmexport.quantize.calibration import SEED
from cmexport.quantize.codes import CONVOLUTIONS, INTEGER_PRODUCTS, OutputCodes
from cmexport.quantize.int8 import encode_layers
from cmexport.quantize.output_rounding import most_harmful_outputs


@pytest.fixture(scope="module")
def codes(prepared):
    return encode_layers(prepared, lambda layer: CONVOLUTIONS)


class RoundingOne(Watching):
    """Everything in float, but one node's result in output codes."""

    def __init__(self, captured, codes):
        super().__init__(captured)
        self.codes = codes

    def run_node(self, n):
        result = super().run_node(n)
        return self.codes.output.rounded(self.codes.layer, result) if n.name in self.codes.layer.nodes else result


@pytest.fixture(scope="module")
def measured(small, codes):
    """By layer key, the picture's mean squared error, on pictures whose outputs no range cuts off."""
    inputs = [small.examples(SEED + i) for i in range(4)]
    exact = [Watching(small).draw(given) for given in inputs]
    return {
        c.layer.key: sum(
            float(((RoundingOne(small, c).draw(given) - y) ** 2).mean()) for given, y in zip(inputs, exact, strict=True)
        )
        for c in codes
    }


def test_those_named_have_most_of_the_measured_harm(small, codes, measured):
    total = sum(measured.values())
    named = most_harmful_outputs(small, codes)
    assert 0 < len(named) < len(codes)
    assert 0.5 * total < sum(measured[k] for k in named)
    # As few as that: the same number of the least harmful ones would not do.
    least = sorted(measured.values())[: len(named)]
    assert sum(least) < 0.5 * sum(measured[k] for k in named)


def test_more_harm_spared_means_more_layers(small, codes, measured):
    found = [most_harmful_outputs(small, codes, share) for share in (0.0, 0.2, 0.65, 0.9, 1.0)]
    assert found[0] == frozenset()
    assert all(a <= b for a, b in pairwise(found))
    assert len(found[1]) < len(found[3])
    assert len(found[4]) >= len(codes) - 1


def test_more_is_spared_where_the_sampler_multiplies_rounding(small, codes):
    multiplied = replace(small, amplification=14.65)
    assert most_harmful_outputs(multiplied, codes) == most_harmful_outputs(small, codes, 0.9)
    assert most_harmful_outputs(small, codes) == most_harmful_outputs(small, codes, 0.75)


def test_coarser_steps_are_more_harm(small, codes, measured):
    harmless = min(measured, key=lambda k: measured[k])
    assert harmless not in most_harmful_outputs(small, codes)
    worse = [
        replace(c, output=OutputCodes(100 * c.output.step, c.output.zero_point)) if c.layer.key == harmless else c
        for c in codes
    ]
    assert harmless in most_harmful_outputs(small, worse)


def test_layers_with_float_results_have_none_to_spare(small, prepared, codes):
    products = encode_layers(prepared, lambda layer: INTEGER_PRODUCTS)
    assert most_harmful_outputs(small, products) == frozenset()
    assert most_harmful_outputs(small, ()) == frozenset()
    few = [*products[:-2], *codes[-2:]]
    assert most_harmful_outputs(small, few) <= {c.layer.key for c in codes[-2:]}
    assert most_harmful_outputs(small, few)
