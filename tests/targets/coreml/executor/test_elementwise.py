"""Elementwise operations and activations against torch and numpy."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)
few = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@few
@given(shape=shapes, seed=st.integers(0, 99))
def test_functions_of_one_number(check, mb, normal, shape, seed):
    x = normal(seed, *shape)
    small, positive = np.tanh(x), np.abs(x) + np.float32(0.1)
    small, positive = small.astype(np.float32) * np.float32(0.99), positive.astype(np.float32)
    t, s, p = torch.from_numpy(x), torch.from_numpy(small), torch.from_numpy(positive)
    anywhere = {
        "abs": t.abs(),
        "atan": t.atan(),
        "ceil": t.ceil(),
        "cos": t.cos(),
        "cosh": t.cosh(),
        "erf": t.erf(),
        "exp": t.exp(),
        "exp2": t.exp2(),
        "floor": t.floor(),
        "round": torch.from_numpy(np.rint(x)),
        "sign": t.sign(),
        "sin": t.sin(),
        "sinh": t.sinh(),
        "square": t * t,
        "tanh": t.tanh(),
        "relu": t.clamp(min=0),
        "relu6": F.relu6(t),
        "sigmoid": t.sigmoid(),
        "silu": t * t.sigmoid(),
        "softplus": F.softplus(t),
        "softsign": t / (1 + t.abs()),
        "identity": t,
    }
    within = {"acos": s.acos(), "asin": s.asin(), "atanh": s.atanh(), "tan": s.tan()}
    above = {"sqrt": p.sqrt(), "log": p.log(), "rsqrt": p.rsqrt(), "inverse": 1 / (p + 1e-4)}

    def build(x, small, positive):
        yield from (getattr(mb, name)(x=x) for name in anywhere)
        yield from (getattr(mb, name)(x=small) for name in within)
        yield from (getattr(mb, name)(x=positive) for name in above)

    inputs = {"x": x, "small": small, "positive": positive}
    check(build, inputs, [*anywhere.values(), *within.values(), *above.values()], tolerance=2e-5)


@few
@given(shape=shapes, seed=st.integers(0, 99), data=st.data())
def test_functions_of_two_numbers_broadcast(check, mb, normal, shape, seed, data):
    other = tuple(data.draw(st.sampled_from([1, n])) for n in shape[data.draw(st.integers(0, len(shape) - 1)) :])
    x, y = normal(seed, *shape), normal(seed + 1, *other)
    y = np.where(np.abs(y) < 0.1, np.float32(0.5), y).astype(np.float32)
    expected = {
        "add": x + y,
        "sub": x - y,
        "mul": x * y,
        "real_div": x / y,
        "floor_div": np.floor_divide(x, y),
        "mod": np.mod(x, y),
        "maximum": np.maximum(x, y),
        "minimum": np.minimum(x, y),
        "equal": x == y,
        "not_equal": x != y,
        "greater": x > y,
        "greater_equal": x >= y,
        "less": x < y,
        "less_equal": x <= y,
        "logical_and": (x > 0) & (y > 0),
        "logical_or": (x > 0) | (y > 0),
        "logical_xor": (x > 0) ^ (y > 0),
        "logical_not": np.broadcast_to(~(x > 0), (x + y).shape),
        "pow": np.abs(x) ** y,
        "select": np.where(x > y, x, y),
    }

    def number(value):
        return mb.cast(x=value, dtype="int32")

    def build(x, y):
        a, b = mb.greater(x=x, y=np.float32(0)), mb.greater(x=y, y=np.float32(0))
        for name in expected:
            if name.startswith("logical"):
                both = getattr(mb, name)(x=a, y=b) if name != "logical_not" else None
                if both is None:
                    zero = mb.logical_xor(x=b, y=b)
                    both = mb.logical_not(x=mb.logical_or(x=a, y=zero))
                yield number(both)
            elif name == "pow":
                yield mb.pow(x=mb.abs(x=x), y=y)
            elif name == "select":
                yield mb.select(
                    cond=mb.greater(x=x, y=y),
                    a=mb.add(x=x, y=mb.mul(x=y, y=np.float32(0))),
                    b=mb.add(x=y, y=mb.mul(x=x, y=np.float32(0))),
                )
            else:
                result = getattr(mb, name)(x=x, y=y)
                yield number(result) if expected[name].dtype == bool else result

    check(build, {"x": x, "y": y}, [v.astype(np.float64) for v in expected.values()])


@few
@given(shape=st.tuples(*[st.integers(1, 4)] * 4), seed=st.integers(0, 99), alpha=st.floats(0.25, 2, width=16))
def test_activations_with_parameters(check, mb, normal, shape, seed, alpha):
    x = normal(seed, *shape) * 2
    t = torch.from_numpy(x)
    per_channel = np.abs(normal(seed + 1, shape[1])) + np.float32(0.1)
    channels = torch.from_numpy(per_channel).reshape(1, -1, 1, 1)
    a = np.float32(alpha)
    cases = {
        "clamped_relu": ({"alpha": a, "beta": np.float32(1.5)}, torch.where(t > 0, t, t * alpha).clamp(max=1.5)),
        "clip": ({"alpha": -a, "beta": a}, t.clamp(-alpha, alpha)),
        "elu": ({"alpha": a}, F.elu(t, alpha)),
        "leaky_relu": ({"alpha": a}, F.leaky_relu(t, alpha)),
        "linear_activation": ({"alpha": a, "beta": np.float32(0.5)}, t * alpha + 0.5),
        "prelu": ({"alpha": per_channel}, F.prelu(t, channels.flatten())),
        "scaled_tanh": ({"alpha": a, "beta": np.float32(0.5)}, alpha * torch.tanh(t * 0.5)),
        "sigmoid_hard": ({"alpha": a, "beta": np.float32(0.5)}, (t * alpha + 0.5).clamp(0, 1)),
        "softplus_parametric": (
            {"alpha": per_channel, "beta": per_channel},
            channels * torch.log1p(torch.exp(t * channels)),
        ),
        "threshold": ({"alpha": a}, torch.maximum(t, torch.tensor(alpha))),
        "thresholded_relu": ({"alpha": a}, F.threshold(t, alpha, 0)),
        "gelu": ({"mode": "EXACT"}, F.gelu(t)),
    }

    def build(x):
        yield from (getattr(mb, name)(x=x, **parameters) for name, (parameters, _) in cases.items())
        yield mb.gelu(x=x, mode="TANH_APPROXIMATION")
        yield mb.gelu(x=x, mode="SIGMOID_APPROXIMATION")
        for axis in range(4):
            yield mb.softmax(x=x, axis=axis - 2)

    expected = [oracle for _, oracle in cases.values()]
    expected += [F.gelu(t, approximate="tanh"), t * torch.sigmoid(1.702 * t)]
    check(build, {"x": x}, expected + [t.softmax(axis - 2) for axis in range(4)])


def test_casts_cut_towards_zero_and_know_truth(check, mb):
    x = np.array([-1.7, -0.2, 0.0, 0.9, 2.5, 300.25], np.float32)
    half = np.float32(np.float16(0.1))

    def build(x):
        yield mb.cast(x=x, dtype="int32")
        yield mb.cast(x=mb.cast(x=x, dtype="bool"), dtype="fp32")
        yield mb.cast(
            x=mb.cast(x=mb.add(x=mb.mul(x=x, y=np.float32(0)), y=np.float32(0.1)), dtype="fp16"), dtype="fp32"
        )

    check(build, {"x": x}, [np.trunc(x), x != 0, np.full(6, half)], tolerance=1e-9)


def test_whole_numbers_divide_and_wrap_as_numpy(check, mb):
    x, y = np.array([-7, 7, -7, 7], np.int32), np.array([2, 2, -2, -2], np.int32)

    def build(x, y):
        yield mb.floor_div(x=x, y=y)
        yield mb.mod(x=x, y=y)
        yield mb.mul(x=x, y=y)

    check(build, {"x": x, "y": y}, [x // y, np.mod(x, y), x * y])
