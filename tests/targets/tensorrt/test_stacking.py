from __future__ import annotations

import numpy as np
import pytest

from cmexport.targets.tensorrt.stacking import StackedRunner


class _Doubling:
    """Twice the noise plus the label plus the renoise, of exactly `batch` pictures; `mix` adds the neighbour's."""

    def __init__(self, batch, mix=False):
        self.batch, self.mix, self.calls, self.closed = batch, mix, 0, False

    def __call__(self, inputs):
        noise = inputs["noise"]
        assert noise.shape[0] == inputs["label"].shape[0] == inputs["renoise"].shape[1] == self.batch
        self.calls += 1
        image = 2 * noise + inputs["label"][:, None, None, None] + inputs["renoise"][0]
        return {"image": image + (0.5 * np.roll(noise, 1, axis=0) if self.mix else 0.0)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


def _inputs(pictures, seed):
    draw = np.random.default_rng(seed)
    shape = (pictures, 3, 2, 2)
    return {
        "noise": draw.standard_normal(shape).astype(np.float32),
        "renoise": draw.standard_normal((1, *shape)).astype(np.float32),
        "label": draw.integers(0, 9, pictures),
    }


def _expected(inputs):
    return 2 * inputs["noise"] + inputs["label"][:, None, None, None] + inputs["renoise"][0]


@pytest.mark.parametrize(("pictures", "batch", "calls"), [(1, 4, 1), (4, 4, 1), (8, 1, 8), (3, 2, 2), (2, 8, 1)])
def test_pictures_come_back_in_order_whatever_the_batch(pictures, batch, calls):
    inner = _Doubling(batch)
    with StackedRunner(lambda: inner, batch) as run:
        for seed in range(3):
            inputs = _inputs(pictures, seed)
            np.testing.assert_array_equal(run(inputs)["image"], _expected(inputs))
    assert inner.calls == 3 * calls
    assert inner.closed


def test_a_graph_that_mixes_pictures_gives_itself_away():
    with StackedRunner(lambda: _Doubling(4, mix=True), 4) as run:
        for seed in range(2):
            inputs = _inputs(1, seed)
            assert np.abs(run(inputs)["image"] - _expected(inputs)).max() > 0.1


def test_neighbours_are_the_pictures_of_the_call_before():
    inner, seen = _Doubling(3), []

    def recording(inputs):
        seen.append(inputs["noise"])
        return inner(inputs)

    with StackedRunner(lambda: inner, 3) as run:
        run._runner = recording
        first, second = _inputs(1, 0), _inputs(1, 1)
        run(first)
        run(second)
        run._runner = inner
    np.testing.assert_array_equal(seen[0][1:], -np.concatenate([first["noise"]] * 2))
    np.testing.assert_array_equal(seen[1], np.concatenate([second["noise"], first["noise"], first["noise"]]))
