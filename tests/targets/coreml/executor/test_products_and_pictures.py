"""Matrix products, attention, resizing and eight-bit activations."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

few = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@few
@given(k=st.integers(1, 5), data=st.data())
def test_matrix_products(check, mb, normal, k, data):
    left, right = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    tx, ty = data.draw(st.booleans()), data.draw(st.booleans())
    x, y = normal(1, 2, 1, left, k), normal(2, 3, k, right)
    weight, bias = normal(3, right, k), normal(4, right)
    a, b = normal(5, 2, left, 3, k), normal(6, 2, k, 1, right)
    stored_x, stored_y = (np.ascontiguousarray(v.swapaxes(-1, -2)) if t else v for v, t in ((x, tx), (y, ty)))

    def build(x, y, a, b):
        yield mb.matmul(x=x, y=y, transpose_x=tx, transpose_y=ty)
        yield mb.linear(x=mb.transpose(x=x, perm=[0, 1, 3, 2]) if tx else x, weight=weight, bias=bias)
        yield mb.linear(x=mb.transpose(x=x, perm=[0, 1, 3, 2]) if tx else x, weight=weight)
        yield mb.einsum(values=[a, b], equation="nchw,nwhu->nchu")

    expected = [x @ y, x @ weight.T + bias, x @ weight.T, np.einsum("nchw,nwu->nchu", a, b[:, :, 0])]
    check(build, {"x": stored_x, "y": stored_y, "a": a, "b": b}, expected)


@few
@given(length=st.integers(1, 5), others=st.integers(1, 5), wide=st.integers(1, 4), heads=st.integers(1, 3))
def test_attention(check, mb, normal, length, others, wide, heads):
    q, k, v = (
        normal(1, 2, heads, length, wide),
        normal(2, 2, heads, others, wide),
        normal(3, 2, heads, others, wide + 1),
    )
    bias = normal(4, length, others)
    seen = np.random.default_rng(5).random((length, others)) < 0.6
    seen[:, 0] = True
    tq, tk, tv = (torch.from_numpy(x).double() for x in (q, k, v))

    def build(q, k, v, bias):
        yield mb.scaled_dot_product_attention(query=q, key=k, value=v)
        yield mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=bias)
        yield mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=seen)

    masks = [None, torch.from_numpy(bias).double(), torch.from_numpy(seen)]
    expected = [F.scaled_dot_product_attention(tq, tk, tv, attn_mask=m) for m in masks]
    check(build, {"q": q, "k": k, "v": v, "bias": bias}, expected, ios=18)


@few
@given(h=st.integers(1, 5), w=st.integers(2, 5), up=st.integers(1, 4), across=st.integers(1, 4))
def test_enlarging_by_factors(check, mb, normal, h, w, up, across):
    x = normal(1, 2, 3, h, w)
    t, size = torch.from_numpy(x), (h * up, w * across)
    scales = {"scale_factor_height": np.float32(up), "scale_factor_width": np.float32(across)}

    def build(x):
        yield mb.upsample_nearest_neighbor(x=x, **scales)
        yield mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=np.float32(1.5), scale_factor_width=np.float32(1.25)
        )
        yield mb.upsample_bilinear(x=x, align_corners=True, **scales)
        yield mb.upsample_bilinear(x=x, align_corners=False, **scales)

    broken = (int(h * 1.5), int(w * 1.25))
    expected = [
        F.interpolate(t, size, mode="nearest"),
        F.interpolate(t, broken, mode="nearest"),
        F.interpolate(t, size, mode="bilinear", align_corners=True),
        F.interpolate(t, size, mode="bilinear", align_corners=False),
    ]
    check(build, {"x": x}, expected)


def test_factors_that_round_down_keep_their_last_row(check, mb, normal):
    """coremltools writes 7 / 3 as (7 + 1e-4) / 3, so that the product doesn't fall to 6."""
    x = normal(1, 1, 1, 3, 3)

    def build(x):
        factor = np.float32((7 + 1e-4) / 3)
        yield mb.upsample_nearest_neighbor(x=x, scale_factor_height=factor, scale_factor_width=factor)

    check(build, {"x": x}, [F.interpolate(torch.from_numpy(x), (7, 7), mode="nearest")])


GRIDS = {
    (5, "UNALIGN_CORNERS"): [0.0, 0.1, 0.5, 0.9, 1.0],
    (5, "STRICT_ALIGN_CORNERS"): [0.0, 0.25, 0.5, 0.75, 1.0],
    (5, "ALIGN_CORNERS"): [0.0, 0.25, 0.5, 0.75, 1.0],
    (5, "DEFAULT"): [0.0, 0.4, 0.8, 1.0, 1.0],
    (5, "OFFSET_CORNERS"): [0.1, 0.3, 0.5, 0.7, 0.9],
    (6, "DEFAULT"): [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0],
    (6, "OFFSET_CORNERS"): [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12],
    (1, "ALIGN_CORNERS"): [0.5],
    (1, "STRICT_ALIGN_CORNERS"): [0.0],
}
"""Sampled positions between two cells 0 and 1, from the documentation of `resize_bilinear`."""


def test_sampling_modes_are_the_documented_ones(check, mb):
    x = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32).reshape(1, 1, 2, 2)
    modes = [(n, mode) for n, mode in GRIDS if (n, mode) != (1, "STRICT_ALIGN_CORNERS")]

    def build(x):
        for n, mode in modes:
            yield mb.resize_bilinear(x=x, target_size_height=1, target_size_width=n, sampling_mode=mode)
        for n, mode in GRIDS:
            yield mb.resize(
                x=x, shape=[0, n], resized_dims=np.uint32(2), interpolation_mode="LINEAR", sampling_mode=mode
            )
        yield mb.resize(x=x, shape=[3, 0], resized_dims=np.uint32(2), interpolation_mode="NEAREST_NEIGHBOR")
        yield mb.resize_nearest_neighbor(x=x, target_size_height=4, target_size_width=3)

    rows = [np.array(GRIDS[m]).reshape(1, 1, 1, -1) for m in modes]
    rows += [np.array(grid).reshape(1, 1, 1, -1).repeat(2, 2) for grid in GRIDS.values()]
    nearest = np.repeat(x, 2, 2)[:, :, [0, 0, 2]]
    check(build, {"x": x}, [*rows, nearest, x[:, :, [0, 0, 1, 1]][..., [0, 0, 1]]])


@few
@given(axis=st.integers(0, 3), seed=st.integers(0, 99), signed=st.booleans())
def test_eight_bit_activations(check, mb, normal, axis, seed, signed):
    x = normal(seed, 2, 3, 4, 3) * 3
    count = x.shape[axis]
    kind = np.int8 if signed else np.uint8
    scale = (np.abs(normal(seed + 1, count)) * np.float32(0.03) + np.float32(0.01)).astype(np.float32)
    zero = np.random.default_rng(seed).integers(-5 if signed else 100, 120, count).astype(kind)
    one = np.float32(0.05)

    def build(x):
        q = mb.quantize(input=x, scale=scale, zero_point=zero, axis=axis, output_dtype=kind.__name__)
        yield mb.cast(x=q, dtype="int32")
        yield mb.dequantize(input=q, scale=scale, zero_point=zero, axis=axis)
        yield mb.dequantize(input=mb.quantize(input=x, scale=one, output_dtype="int8"), scale=one)

    t = torch.from_numpy(x)
    scales, zeros = torch.from_numpy(scale), torch.from_numpy(zero.astype(np.int32))
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    faked = torch.fake_quantize_per_channel_affine(t, scales, zeros, axis, int(low), int(high))
    shape = [-1 if i == axis else 1 for i in range(4)]
    numbers = torch.round(faked / scales.reshape(shape)) + zeros.reshape(shape)
    check(build, {"x": x}, [numbers, faked, torch.fake_quantize_per_tensor_affine(t, 0.05, 0, -128, 127)])
