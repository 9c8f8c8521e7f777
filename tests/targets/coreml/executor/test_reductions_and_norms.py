"""Reductions and norms against torch."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

few = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@few
@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple), keep=st.booleans(), data=st.data())
def test_reductions(check, mb, normal, shape, keep, data):
    rank = len(shape)
    axes = sorted(data.draw(st.sets(st.integers(0, rank - 1), min_size=1, max_size=rank - 1)))
    x = normal(data.draw(st.integers(0, 99)), *shape)
    t = torch.from_numpy(x)
    shifted = t.abs() + 0.5
    expected = {
        "reduce_l1_norm": t.abs().sum(axes, keep),
        "reduce_l2_norm": torch.linalg.vector_norm(t, dim=axes, keepdim=keep),
        "reduce_log_sum": shifted.sum(axes, keep).log(),
        "reduce_log_sum_exp": t.exp().sum(axes, keep).log(),
        "reduce_max": t.amax(axes, keep),
        "reduce_mean": t.mean(axes, keep),
        "reduce_min": t.amin(axes, keep),
        "reduce_prod": torch.from_numpy(np.prod(x, axis=tuple(axes), keepdims=keep)),
        "reduce_sum": t.sum(axes, keep),
        "reduce_sum_square": (t * t).sum(axes, keep),
    }
    signed = [a - rank if data.draw(st.booleans()) else a for a in axes]

    def build(x):
        positive = mb.add(x=mb.abs(x=x), y=np.float32(0.5))
        for name in expected:
            value = positive if name == "reduce_log_sum" else x
            yield getattr(mb, name)(x=value, axes=signed, keep_dims=keep)
        yield mb.reduce_argmax(x=x, axis=axes[0], keep_dims=keep)
        yield mb.reduce_argmin(x=x, axis=axes[0] - rank, keep_dims=keep)

    found = [t.argmax(axes[0], keep), t.argmin(axes[0], keep)]
    check(build, {"x": x}, [*expected.values(), *found])


@few
@given(shape=st.tuples(*[st.integers(1, 5)] * 4), seed=st.integers(0, 99), data=st.data())
def test_norms(check, mb, normal, shape, seed, data):
    x = normal(seed, *shape) * 3 + 1
    t, channels = torch.from_numpy(x), shape[1]
    gamma, beta, mean = (normal(seed + i, channels) for i in (1, 2, 3))
    variance = np.abs(normal(seed + 4, channels)) + np.float32(0.1)
    first = data.draw(st.integers(1, 3))
    weight, bias = normal(seed + 5, *shape[first:]), normal(seed + 6, *shape[first:])
    size = data.draw(st.integers(1, channels))
    eps = np.float32(data.draw(st.sampled_from([1e-5, 1e-3])))

    def build(x):
        yield mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=eps)
        yield mb.batch_norm(x=x, mean=mean, variance=variance)
        yield mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=eps)
        yield mb.layer_norm(x=x, axes=list(range(first, 4)), gamma=weight, beta=bias, epsilon=eps)
        yield mb.layer_norm(x=x, axes=[-1])
        yield mb.l2_norm(x=x, epsilon=eps)
        yield mb.local_response_norm(x=x, size=size, alpha=np.float32(0.2), beta=np.float32(0.75), k=np.float32(1))

    g, b = torch.from_numpy(gamma), torch.from_numpy(beta)
    stacked = torch.from_numpy(mean), torch.from_numpy(variance)
    centered = t - t.mean((2, 3), keepdim=True)
    per_picture = centered / (t.var((2, 3), correction=0, keepdim=True) + float(eps)).sqrt()
    flat = t.flatten(1)
    check(
        build,
        {"x": x},
        [
            F.batch_norm(t, *stacked, g, b, eps=float(eps)),
            F.batch_norm(t, *stacked, eps=1e-5),
            per_picture * g.reshape(1, -1, 1, 1) + b.reshape(1, -1, 1, 1),
            F.layer_norm(t, shape[first:], torch.from_numpy(weight), torch.from_numpy(bias), float(eps)),
            F.layer_norm(t, shape[3:]),
            (flat / ((flat**2).sum(1, keepdim=True) + float(eps)).sqrt()).reshape(shape),
            F.local_response_norm(t, size, 0.2, 0.75, 1.0),
        ],
        tolerance=3e-5,
    )
