"""Compressed packages: codes give the rounded weights back bit by bit; the pictures are those of the rounded graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.quantize import compression
from cmexport.quantize.formats import LINEAR8, WeightFormat
from cmexport.quantize.rounding import rounded
from cmexport.targets.coreml.compress import BITS_BEFORE_18, LinearCodes, PaletteCodes, encode
from cmexport.targets.coreml.executor import Executor, read_program
from cmexport.targets.coreml.info import CoreMlOptions


def _weight(seed, *shape):
    return 0.05 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(-4, 2), half=st.booleans())
def test_integers_come_back_to_the_bit(seed, scale, half):
    weight = rounded(_weight(seed, 24, 40) * 10**scale, None, LINEAR8).numpy().astype("float16" if half else "float32")
    found = encode(weight)
    if isinstance(found, PaletteCodes):  # tiny weights have few values
        back = found.table[found.indices]
    else:
        assert isinstance(found, LinearCodes)
        back = (found.codes * found.scale.astype(np.float32)).astype(weight.dtype)
    np.testing.assert_array_equal(back, weight)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_palettes_come_back_to_the_bit_in_as_many_bits(bits):
    # 147,456 numbers: numpy 2.3.5 finds duplicates among half-precision arrays of this size.
    weight = rounded(_weight(bits, 128, 128, 3, 3), None, WeightFormat("palette", bits)).numpy().astype(np.float16)
    found = encode(weight)
    assert isinstance(found, PaletteCodes)
    assert (found.bits, len(found.table)) == (bits, 2**bits)
    np.testing.assert_array_equal(found.table[found.indices], weight)


def test_zeros_of_both_signs_are_one_number():
    """-0.0 is another pattern of bits and the same number: a palette has one place for both."""
    weight = rounded(_weight(3, 64, 64), None, WeightFormat("palette", 2)).numpy().astype(np.float16)
    zero = np.abs(weight) == np.abs(weight).min()
    weight[zero] = np.where(np.arange(zero.sum()) % 2, 0.0, -0.0)
    assert np.signbit(weight[weight == 0]).any()
    assert not np.signbit(weight[weight == 0]).all()
    found = encode(weight)
    assert isinstance(found, PaletteCodes)
    assert found.bits == 2
    np.testing.assert_array_equal(found.table[found.indices], weight)


def test_three_bits_take_four_before_ios_18():
    weight = rounded(_weight(0, 64, 64), None, WeightFormat("palette", 3)).numpy()
    found = encode(weight, BITS_BEFORE_18)
    assert isinstance(found, PaletteCodes)
    assert found.bits == 4


def test_weights_that_nobody_rounded_stay_as_they_are():
    assert encode(_weight(0, 64, 64).numpy()) is None
    assert encode(_weight(0, 64, 64).numpy().astype(np.float16)) is None


def test_a_channel_of_zeros_is_encoded():
    weight = _weight(0, 32, 64)
    weight[5] = 0
    found = encode(rounded(weight, None, LINEAR8).numpy())
    assert isinstance(found, LinearCodes)
    assert not found.codes[5].any()


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    monkeypatch.setattr(compression, "SAMPLES", 4)


FLAT = {"channel_mult": (1,)}
STORED = {"constexpr_blockwise_shift_scale", "constexpr_lut_to_dense", "constexpr_affine_dequantize"}


def _picture_of_the_rounded_graph(made, precision, inputs, widths):
    """torch on the graph that `quantize` rounded: the package must hold exactly that, up to half precision."""
    from cmexport.graph.rewriting import apply_rewrites
    from cmexport.targets.coreml.rewrites import chosen_rewrites

    shaped = apply_rewrites(made.captured, list(chosen_rewrites(18 if 3 in widths else 16)))
    graph = to_module(compression.compress(shaped, precision, palette_bits=widths).captured.program)
    with torch.no_grad():
        result = graph(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    return (result[0] if isinstance(result, tuple | list) else result).numpy()


@pytest.mark.parametrize(("precision", "ios"), [("w8", 18), ("w4", 18), ("w4", 16), ("w6", 17)])
def test_packages_hold_the_rounded_weights(export, psnr, precision, ios):
    made = export(SampleRequest(label=1), CoreMlOptions(precision=precision, ios=ios), **FLAT)
    inputs = made.inputs()
    widths = (1, 2, 3, 4, 6, 8) if ios == 18 else BITS_BEFORE_18
    assert psnr(_picture_of_the_rounded_graph(made, precision, inputs, widths), made.run(inputs)) >= 58.0
    kinds = set(made.counts)
    assert kinds & STORED
    assert ("constexpr_affine_dequantize" in kinds) <= (ios < 18)
    plan = made.lowered.precision_plan
    assert plan["mean_weight_bits"] <= compression.RECIPES[precision].mean_bits
    program = read_program(made.package)
    compressed = sum(op.type in STORED for op in program.functions["main"].ops)
    assert compressed == sum(n for format, n in plan["weights"].items() if format != "float16")


def test_few_steps_store_shared_weights_once(export):
    one = export(SampleRequest(label=1), CoreMlOptions(precision="w8"), **FLAT)
    two = export(SampleRequest(label=1, sigmas=(80.0, 1.4)), CoreMlOptions(precision="w8"), **FLAT)
    sizes = [(m.package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size for m in (one, two)]
    assert sizes[1] < 1.25 * sizes[0]
    inputs = two.inputs()
    assert np.isfinite(Executor(read_program(two.package))(inputs)["image"]).all()
