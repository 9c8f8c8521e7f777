"""Mode `wide`: half-precision programs with nothing rounded but their weights; and two executors taking turns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cmexport.targets.coreml.executor import MODES, Executor, read_program


@pytest.fixture
def network(save_mil, mb, normal):
    """A half-precision program between casts, its input, and the same in torch on half-rounded weights in float64."""
    x = normal(1, 1, 8, 6, 6) * 1000
    weight, gamma = normal(2, 16, 8, 3, 3).astype(np.float16), (normal(3, 16) + 1).astype(np.float16)
    linear = (0.1 * normal(4, 5, 16)).astype(np.float16)

    def build(x):
        half = mb.cast(x=x, dtype="fp16")
        y = mb.conv(x=half, weight=weight, pad_type="same", name="conv")
        y = mb.silu(x=mb.instance_norm(x=y, gamma=gamma, beta=gamma), name="silu")
        z = mb.linear(x=mb.transpose(x=mb.reduce_mean(x=y, axes=[3]), perm=[0, 2, 1]), weight=linear)
        z = mb.concat(values=[z, np.full((1, 6, 1), 0.1, np.float16)], axis=2)
        z = mb.softmax(x=mb.gather(x=z, indices=[0, 2, 5], axis=2, validate_indices=False), axis=2)
        yield mb.cast(x=z, dtype="fp32", name="out")

    def wide(array):
        return torch.from_numpy(array).double()

    y = F.conv2d(wide(x), wide(weight), padding=1)
    y = F.silu(F.instance_norm(y, weight=wide(gamma), bias=wide(gamma)))
    z = F.linear(y.mean(3).mT, wide(linear))
    # The constant is in the program as a half.
    z = torch.cat([z, torch.full((1, 6, 1), float(np.float16(0.1)), dtype=torch.float64)], 2)
    return save_mil(build, {"x": x}, 17), x, torch.softmax(z[..., [0, 2, 5]], 2).numpy()


def test_wide_is_float32_on_the_stored_weights(network):
    path, x, expected = network
    program = read_program(path)
    (found,) = Executor(program, mode="wide")({"x": x}).values()
    assert np.abs(found - expected).max() < 2e-6
    # The oracle can tell: with halves in between it is a hundred times as far off.
    (half,) = Executor(program)({"x": x}).values()
    assert np.abs(half - expected).max() > 1e-4


def test_wide_is_no_mode_of_a_device_and_does_not_overflow(network):
    path, x, _ = network
    assert "wide" not in MODES
    seen = {}
    program = read_program(path)
    Executor(program, mode="wide", observer=lambda op, results: seen.update({op.name: results[0]}))({"x": 20 * x})
    assert all(tensor.dtype == torch.float32 for tensor in seen.values())
    assert seen["conv"].abs().max() > 65504
    assert all(tensor.isfinite().all() for tensor in seen.values())


def test_half_precision_borders_are_float32_too(save_mil, mb):
    x = np.array([60000, 1e-7], np.float16)
    program = read_program(save_mil(lambda x: [mb.add(x=x, y=x)], {"x": x}))
    (found,) = Executor(program, mode="wide")({"x": x}).values()
    assert found.dtype == np.float32
    assert np.array_equal(found, x.astype(np.float32) * 2)


def test_compressed_weights_are_the_numbers_that_are_stored(save_mil, mb):
    """0.1 * 3 in half precision: the weight a device sees, not the product in float32."""
    x = np.ones((1, 2), np.float32)

    def build(x):
        weight = mb.constexpr_affine_dequantize(
            quantized_data=np.array([[3, 7]], np.int8), zero_point=np.int8(0), scale=np.float16(0.1), axis=np.int32(0)
        )
        yield mb.cast(x=mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=weight), dtype="fp32")

    (found,) = Executor(read_program(save_mil(build, {"x": x})), mode="wide")({"x": x}).values()
    stored = np.array([3, 7], np.float16) * np.float16(0.1)
    assert found[0, 0] == stored.astype(np.float32).sum()


def test_steps_are_what_an_observer_sees_and_can_be_taken_in_turns(network):
    path, x, expected = network
    program = read_program(path)
    seen = []
    Executor(program, observer=lambda op, results: seen.append((op.name, results[0].clone())))({"x": x})
    assert not torch.is_inference_mode_enabled()
    wide, ideal = (Executor(program, mode=mode).steps({"x": x}) for mode in ("wide", "ideal"))
    for (op, (reference,)), (same, (candidate,)), (name, observed) in zip(wide, ideal, seen, strict=True):
        assert op is same
        assert op.name == name
        assert torch.equal(candidate, observed)
        final = reference
        # Between two steps the caller's own state is as it was.
        assert not torch.is_inference_mode_enabled()
    assert np.abs(final.numpy() - expected).max() < 2e-6
