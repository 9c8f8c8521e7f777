"""Convolutions and pools against torch, for every kind of padding."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError

few = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def explicit(kind, size, kernel, stride, dilation, custom):
    """(before, after) as TensorFlow defines SAME: the odd cell after; SAME_LOWER: before."""
    if kind == "valid":
        return (0, 0)
    if kind == "custom":
        return custom
    reach = (kernel - 1) * dilation + 1
    total = max(0, (math.ceil(size / stride) - 1) * stride + reach - size)
    return (total // 2, total - total // 2) if kind == "same" else (total - total // 2, total // 2)


def padded(t, pads, value=0.0):
    return F.pad(t, [n for pair in reversed(pads) for n in pair], value=value)


@few
@given(data=st.data())
def test_convolution(check, mb, normal, data):
    axes = data.draw(st.integers(1, 3), "axes")
    groups, per_group = data.draw(st.integers(1, 3), "groups"), data.draw(st.integers(1, 3), "channels")
    kernel = [data.draw(st.integers(1, 4)) for _ in range(axes)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(axes)]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(axes)]
    sizes = [(k - 1) * d + data.draw(st.integers(1, 5)) for k, d in zip(kernel, dilations, strict=True)]
    custom = [(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))) for _ in range(axes)]
    x, weight = normal(1, 2, groups * per_group, *sizes), normal(2, groups * 2, per_group, *kernel)
    bias = normal(3, groups * 2)
    given_ = {"strides": strides, "dilations": dilations, "groups": groups}

    def build(x):
        yield mb.conv(x=x, weight=weight, bias=bias, pad_type="custom", pad=[n for p in custom for n in p], **given_)
        for kind in ("valid", "same", "same_lower"):
            yield mb.conv(x=x, weight=weight, pad_type=kind, **given_)

    def oracle(kind, b):
        pads = [explicit(kind, *v) for v in zip(sizes, kernel, strides, dilations, custom, strict=True)]
        t = padded(torch.from_numpy(x).double(), pads)
        return CONVOLUTIONS[axes](t, torch.from_numpy(weight).double(), b, strides, 0, dilations, groups)

    expected = [oracle("custom", torch.from_numpy(bias).double())]
    check(build, {"x": x}, expected + [oracle(kind, None) for kind in ("valid", "same", "same_lower")])


@few
@given(data=st.data())
def test_transposed_convolution(check, mb, normal, data):
    axes = data.draw(st.integers(1, 2), "axes")
    groups, per_group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    strides = [data.draw(st.integers(1, 3)) for _ in range(axes)]
    kernel = [data.draw(st.integers(s, 4)) for s in strides]
    dilations = [data.draw(st.integers(1, 2)) for _ in range(axes)]
    sizes = [data.draw(st.integers(3, 5)) for _ in range(axes)]
    pad = [data.draw(st.integers(0, 1)) for _ in range(axes)]
    extra = [data.draw(st.integers(0, s - 1)) for s in strides]
    x, weight = normal(1, 2, groups * per_group, *sizes), normal(2, groups * per_group, 2, *kernel)
    bias = normal(3, groups * 2)
    given_ = {"strides": strides, "dilations": dilations, "groups": groups}
    t, w, b = (torch.from_numpy(v).double() for v in (x, weight, bias))
    full = TRANSPOSED[axes](t, w, b, strides, 0, 0, groups, dilations)
    cropped = TRANSPOSED[axes](t, w, b, strides, pad, 0, groups, dilations)
    # PyTorch's output_padding lengthens the result at its end, which is what output_shape asks for.
    longer = padded(full - b.reshape(1, -1, *[1] * axes), [(0, e) for e in extra]) + b.reshape(1, -1, *[1] * axes)
    longer = longer[(..., *(slice(p, n - p) for p, n in zip(pad, longer.shape[2:], strict=True)))]
    same = full
    for i in range(axes):
        surplus = full.shape[2 + i] - sizes[i] * strides[i]
        same = same.narrow(2 + i, surplus // 2, sizes[i] * strides[i])
    both_sides = [p for p in pad for _ in range(2)]

    def build(x):
        yield mb.conv_transpose(x=x, weight=weight, bias=bias, pad_type="valid", **given_)
        yield mb.conv_transpose(x=x, weight=weight, bias=bias, pad_type="custom", pad=both_sides, **given_)
        yield mb.conv_transpose(
            x=x, weight=weight, bias=bias, pad_type="custom", pad=both_sides, output_shape=longer.shape, **given_
        )
        yield mb.conv_transpose(x=x, weight=weight, bias=bias, pad_type="same", **given_)

    check(build, {"x": x}, [full, cropped, longer, same])


def test_weights_computed_at_run_time(check, mb, normal):
    x, weight = normal(1, 1, 2, 5, 5), normal(2, 3, 2, 3, 3)
    oracle = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight))
    check(lambda x, w: [mb.conv(x=x, weight=w)], {"x": x, "w": weight}, [oracle])


@few
@given(data=st.data())
def test_pools(check, mb, normal, data):
    axes = data.draw(st.integers(1, 2))
    kernel = [data.draw(st.integers(1, 4)) for _ in range(axes)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(axes)]
    sizes = [data.draw(st.integers(5, 8)) for _ in range(axes)]
    pad = [data.draw(st.integers(0, k // 2)) for k in kernel]
    ceil, exclude = data.draw(st.booleans()), data.draw(st.booleans())
    x = normal(1, 2, 3, *sizes)
    t = torch.from_numpy(x)
    average, largest = (F.avg_pool1d, F.max_pool1d) if axes == 1 else (F.avg_pool2d, F.max_pool2d)
    windows = {"kernel_sizes": kernel, "strides": strides}
    custom = {"pad_type": "custom", "pad": [p for p in pad for _ in range(2)], "ceil_mode": ceil}

    def build(x):
        yield mb.avg_pool(x=x, exclude_padding_from_average=exclude, **windows, **custom)
        yield mb.max_pool(x=x, **windows, **custom)
        yield mb.max_pool(x=x, **windows, pad_type="same")
        yield mb.avg_pool(x=x, **windows, pad_type="same_lower", exclude_padding_from_average=exclude)
        yield mb.l2_pool(x=x, **windows, pad_type="valid")

    def pads(kind):
        return [explicit(kind, n, k, s, 1, None) for n, k, s in zip(sizes, kernel, strides, strict=True)]

    lower, ones = pads("same_lower"), torch.ones_like(t)
    sums = average(padded(t, lower), kernel, strides)
    if exclude:
        sums = sums / average(padded(ones, lower), kernel, strides)
    check(
        build,
        {"x": x},
        [
            average(t, kernel, strides, pad, ceil, not exclude),
            largest(t, kernel, strides, pad, ceil_mode=ceil),
            largest(padded(t, pads("same"), -math.inf), kernel, strides),
            sums,
            (average(t * t, kernel, strides) * math.prod(kernel)).sqrt(),
        ],
    )


def test_a_window_that_begins_in_the_padding_is_dropped(check, mb, normal):
    """Five cells and one of padding on either side, windows of two, three apart: the third would see padding only."""
    x = normal(1, 1, 2, 5)
    t = torch.from_numpy(x)
    windows = {"kernel_sizes": [2], "strides": [3], "pad_type": "custom", "pad": [1, 1], "ceil_mode": True}

    def build(x):
        yield mb.avg_pool(x=x, **windows)
        yield mb.max_pool(x=x, **windows)

    expected = [F.avg_pool1d(t, 2, 3, 1, ceil_mode=True), F.max_pool1d(t, 2, 3, 1, ceil_mode=True)]
    assert expected[0].shape[-1] == 2
    check(build, {"x": x}, expected)


def test_padding_as_large_as_a_disk_is_refused(run_mil, mb, normal):
    """Cells far apart make the result small again: only what lies between is impossible."""
    far = 2**28
    given_ = {"pad_type": "custom", "pad": [0, 0, far, far + 1], "dilations": [1, far]}
    with pytest.raises(CheckpointError, match="needs a tensor of impossible shape"):
        run_mil(lambda x: [mb.conv(x=x, weight=normal(2, 2, 3, 1, 3), **given_)], {"x": normal(1, 1, 3, 3, 4)})


@pytest.mark.parametrize("groups", [1, 4])
def test_runs_of_32_products_add_up_to_the_same_convolution(run_mil, mb, normal, groups):
    """In half precision convolutions take another path: right up to its rounding, for x and its transpose."""
    x = normal(1, 1, 40, 7, 6)
    weight, turned = (
        normal(2, 8, 40 // groups, 3, 2) * np.float32(0.1),
        normal(3, 40, 8 // groups, 3, 2) * np.float32(0.1),
    )
    pad = {"pad_type": "custom", "pad": [1, 0, 2, 1], "strides": [2, 1], "groups": groups}

    def build(x):
        h = mb.cast(x=x, dtype="fp16")
        for op, w in ((mb.conv, weight), (mb.conv_transpose, turned)):
            yield mb.cast(x=op(x=h, weight=w.astype(np.float16), dilations=[1, 2], **pad), dtype="fp32")

    ideal, half = (run_mil(build, {"x": x}, mode=mode) for mode in ("ideal", "fp16"))
    for exact, rounded in zip(ideal, half, strict=True):
        assert 0 < (exact - rounded).abs().max() < 0.02
