"""Half precision: what each mode rounds, overflows and flushes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmexport.errors import CheckpointError, UsageError
from cmexport.targets.coreml.executor import MODES, Executor, read_program
from cmexport.targets.coreml.executor.modes import Arithmetic, flush


def half(*values):
    return np.array(values, np.float16)


def modes(save_mil, build, inputs):
    """The single output in each mode."""
    program = read_program(save_mil(build, inputs, 18))
    return {mode: next(iter(Executor(program, mode=mode)(inputs).values())) for mode in MODES}


@pytest.mark.parametrize("norm", ["layer_norm", "instance_norm", "l2_norm"])
def test_a_norm_of_300_overflows_in_half_precision_only(save_mil, mb, norm):
    x = half(-300, 300, 300, -300).reshape(1, 1, 2, 2)
    more = {"axes": [2, 3]} if norm == "layer_norm" else {}
    results = modes(save_mil, lambda x: [getattr(mb, norm)(x=x, **more)], {"x": x})
    size = 2.0 if norm == "l2_norm" else 1.0
    assert np.array_equal(results["ideal"], x / np.float16(300 * size))
    assert not np.array_equal(results["fp16"], results["ideal"])
    assert np.all(results["fp16"] == 0)


@pytest.mark.parametrize("norm", ["layer_norm", "instance_norm", "l2_norm"])
def test_one_outlier_overflows_though_its_mean_square_would_not(save_mil, mb, norm):
    x = np.zeros((1, 1, 32, 32), np.float16)
    x[..., 5, 5] = 300
    more = {"axes": [2, 3]} if norm == "layer_norm" else {}
    results = modes(save_mil, lambda x: [getattr(mb, norm)(x=x, **more)], {"x": x})
    assert results["ideal"][..., 5, 5] > 0.9
    assert results["fp16"][..., 5, 5] == 0


def test_squared_deviation_of_200_does_not_overflow(save_mil, mb):
    x = half(-200, 200, 200, -200).reshape(1, 1, 2, 2)
    results = modes(save_mil, lambda x: [mb.layer_norm(x=x, axes=[2, 3])], {"x": x})
    assert np.array_equal(results["fp16"], half(-1, 1, 1, -1).reshape(x.shape))


def test_flushing_every_half_there_is():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    flushed = flush(torch.from_numpy(every)).numpy()
    subnormal = np.abs(every.astype(np.float64)) < 2.0**-14
    assert not flushed[subnormal].any()
    assert np.array_equal(flushed[~subnormal], every[~subnormal], equal_nan=True)


def test_only_ftz_flushes_subnormals(save_mil, mb):
    """3e-5 is half of the smallest normal number: as an input, a constant and a result."""
    x = half(3e-5, -3e-5, 7e-5, 0.5)

    def build(x):
        small = mb.mul(x=x, y=np.float16(1))
        made = mb.add(x=mb.mul(x=mb.mul(x=x, y=np.float16(0)), y=np.float16(1)), y=np.float16(3e-5))
        yield mb.concat(values=[small, made, mb.mul(x=x, y=np.float16(1e-3))], axis=0)

    results = modes(save_mil, build, {"x": x})
    assert results["ideal"][0] != 0
    assert np.array_equal(results["ideal"], results["fp16"])
    assert np.array_equal(results["ftz"][:4], half(0, 0, 7e-5, 0.5))
    assert not results["ftz"][4:8].any()
    assert np.array_equal(results["ftz"][8:] != 0, [False, False, False, True])


def test_long_sums_are_added_in_half_precision(save_mil, mb):
    """A run of 32768 and eight of 8: halves are 32 apart there, so 8 is lost when it is added by itself."""
    x = np.full((1, 9 * 32), 0.25, np.float16)
    x[0, :32] = 1024
    weight = np.ones(x.shape, np.float16)
    products = modes(save_mil, lambda x: [mb.linear(x=x, weight=weight)], {"x": x})
    assert products["ideal"][0, 0] == 32768 + 64
    # One run after the other: each 8 is lost.
    assert products["fp16"][0, 0] == 32768
    sums = modes(save_mil, lambda x: [mb.reduce_sum(x=x, axes=[1])], {"x": x})
    assert sums["ideal"][0] == 32768 + 64
    # In pairs: 8 and 16 are lost (a tie goes to the even neighbour), 32 arrives, the last 8 is lost.
    assert sums["fp16"][0] == 32768 + 32


def test_a_sum_above_65504_overflows_and_a_mean_does_not(save_mil, mb):
    x = np.full((1, 1, 64, 64), 100, np.float16)

    def build(x):
        yield mb.concat(values=[mb.reduce_sum(x=x, axes=[2, 3]), mb.reduce_mean(x=x, axes=[2, 3])], axis=1)

    results = modes(save_mil, build, {"x": x})
    assert np.isinf(results["fp16"][0, 0])
    assert results["fp16"][0, 1] == 100


def test_float32_programs_are_the_same_in_all_modes(save_mil, mb, normal):
    x = normal(1, 2, 3, 8, 8) * 400

    def build(x):
        yield mb.instance_norm(x=mb.conv(x=x, weight=normal(2, 40, 3, 3, 3)))

    results = modes(save_mil, build, {"x": x})
    assert all(np.array_equal(results[mode], results["ideal"]) for mode in MODES)


@pytest.mark.parametrize("seed", range(3))
def test_every_family_in_half_precision_stays_near_the_ideal(save_mil, mb, normal, seed):
    """The paths that only half precision takes compute the same thing: 1 % apart at most."""
    x, q = normal(seed, 1, 40, 6, 6).astype(np.float16), normal(seed + 9, 1, 2, 70, 36).astype(np.float16)

    def h(*shape):
        return (normal(seed + 3, *shape) * np.float32(0.2)).astype(np.float16)

    def build(x, q):
        yield mb.conv(x=x, weight=h(4, 40, 3, 3), bias=h(4), pad_type="same", dilations=[2, 1])
        yield mb.conv_transpose(x=x, weight=h(40, 3, 3, 2), strides=[2, 1])
        yield mb.linear(x=mb.reshape(x=x, shape=[1, 36, 40]), weight=h(5, 40), bias=h(5))
        yield mb.matmul(x=q, y=q, transpose_y=True)
        yield mb.einsum(
            values=[mb.transpose(x=q, perm=[0, 3, 1, 2]), mb.transpose(x=q, perm=[0, 2, 1, 3])],
            equation="nchw,nwhu->nchu",
        )
        yield mb.scaled_dot_product_attention(query=q, key=q, value=q)
        yield mb.softmax(x=x, axis=1)
        yield mb.avg_pool(x=x, kernel_sizes=[6, 6], strides=[1, 1], pad_type="same")
        yield mb.l2_pool(x=x, kernel_sizes=[6, 6], strides=[1, 1], pad_type="valid")
        for name in ("reduce_sum_square", "reduce_l1_norm", "reduce_l2_norm", "reduce_log_sum_exp"):
            yield getattr(mb, name)(x=x, axes=[1, 3], keep_dims=True)
        yield mb.instance_norm(x=x, gamma=h(40), beta=h(40))
        yield mb.layer_norm(x=x, axes=[1])
        yield mb.batch_norm(x=x, mean=h(40), variance=np.abs(h(40)) + np.float16(0.2), gamma=h(40), beta=h(40))
        yield mb.local_response_norm(x=x, size=5, alpha=np.float16(0.3))
        yield mb.cumsum(x=x, axis=1)

    program = read_program(save_mil(build, {"x": x, "q": q}, 18))
    ideal, rough = (Executor(program, mode=mode)({"x": x, "q": q}) for mode in ("ideal", "fp16"))
    differing = 0
    for name, exact in ideal.items():
        scale = np.abs(exact.astype(np.float64)).max()
        error = np.abs(rough[name].astype(np.float64) - exact).max() / scale
        assert error < 0.01, name
        differing += error > 0
    assert differing > 12


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(1, 40), min_size=1, max_size=3), data=st.data(), keep=st.booleans())
def test_sums_in_runs_keep_shape_and_value(shape, data, keep):
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    total = Arithmetic(half=True).sum(x, axes, keep)
    assert total.shape == x.sum(axes, keep).shape
    torch.testing.assert_close(total, x.sum(axes, keep), atol=0.15, rtol=0.01)


def test_observer_sees_every_operation_in_its_declared_type(save_mil, mb, normal):
    x = normal(1, 2, 4)
    seen = []
    path = save_mil(lambda x: [mb.relu(x=mb.cast(x=x, dtype="fp16"), name="r")], {"x": x})
    executor = Executor(read_program(path), observer=lambda op, results: seen.append((op.type, results)))
    executor({"x": x})
    assert [kind for kind, _ in seen] == ["cast", "relu"]
    assert seen[1][1][0].dtype == torch.float16
    assert torch.equal(seen[1][1][0], torch.from_numpy(x).half().relu())


def test_requests_that_cannot_be_served(save_mil, mb, normal):
    x = normal(1, 2, 4)
    program = read_program(save_mil(lambda x: [mb.relu(x=x)], {"x": x}))
    with pytest.raises(UsageError, match="there is no function 'edit', only main"):
        Executor(program, "edit")
    with pytest.raises(UsageError, match="there is no mode 'fast'"):
        Executor(program, mode="fast")
    for wrong in ({}, {"y": x}, {"x": x, "y": x}, {"x": x.astype(np.float64)}, {"x": x[:1]}, {"x": x[0]}):
        with pytest.raises(UsageError, match="x"):
            Executor(program)(wrong)
    with pytest.raises(CheckpointError):
        read_program(program.path / "nothing")
