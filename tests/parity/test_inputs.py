from __future__ import annotations

import numpy as np
import pytest
import torch

from cmexport.errors import CheckpointError, UsageError
from cmexport.model import TensorSpec
from cmexport.parity.inputs import batch_of, draw_inputs, split_inputs


def specs(batch: int = 1, steps: int = 1, label: str | None = "int64") -> list[TensorSpec]:
    found = [TensorSpec("noise", (batch, 3, 4, 4), "float32")]
    if steps > 1:
        found.append(TensorSpec("renoise", (steps - 1, batch, 3, 4, 4), "float32"))
    if label:
        found.append(TensorSpec("label", (batch,), label))
    return found


def test_picture_i_is_drawn_from_its_own_seed_noise_first_then_renoise() -> None:
    inputs = draw_inputs(specs(batch=2, steps=3), classes=3, pictures=6, seed=40)
    assert len(inputs) == 3
    for run, arrays in enumerate(inputs):
        for place in range(2):
            index = 2 * run + place
            generator = torch.Generator().manual_seed(40 + index)
            noise = torch.randn(3, 4, 4, generator=generator).numpy()
            renoise = torch.randn(2, 3, 4, 4, generator=generator).numpy()
            assert np.array_equal(arrays["noise"][place], noise)
            assert np.array_equal(arrays["renoise"][:, place], renoise)
            assert arrays["label"][place] == index % 3
    assert arrays["noise"].shape == (2, 3, 4, 4)
    assert arrays["renoise"].shape == (2, 2, 3, 4, 4)
    assert arrays["label"].shape == (2,)


def test_pictures_do_not_depend_on_the_batch() -> None:
    one = np.concatenate([run["noise"] for run in draw_inputs(specs(1), 10, 8)])
    four = np.concatenate([run["noise"] for run in draw_inputs(specs(4), 10, 8)])
    assert np.array_equal(one, four)


def test_pictures_are_rounded_up_to_whole_batches() -> None:
    inputs = draw_inputs(specs(batch=3), 10, pictures=64)
    assert (inputs.pictures, len(inputs), inputs.batch) == (66, 22, 3)


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_arrays_have_the_graphs_dtypes(dtype: str) -> None:
    arrays = draw_inputs(specs(label=dtype), 10, 1)[0]
    assert (arrays["noise"].dtype, arrays["label"].dtype) == (np.float32, np.dtype(dtype))


def test_a_graph_without_label_or_renoise_gets_only_noise() -> None:
    assert set(draw_inputs(specs(label=None), None, 1)[0]) == {"noise"}
    assert set(draw_inputs(specs(label=None), 10, 1)[0]) == {"noise"}


def test_sequence_indexing() -> None:
    inputs = draw_inputs(specs(), 10, 4)
    assert np.array_equal(inputs[-1]["noise"], inputs[3]["noise"])
    assert [int(run["label"][0]) for run in inputs[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        inputs[4]


@pytest.mark.parametrize(
    ("wrong", "classes", "pictures", "kind", "message"),
    [
        (specs(), None, 4, CheckpointError, "number of classes"),
        (specs(), 10, 0, UsageError, "at least 1"),
        ([TensorSpec("x", (1, 3, 4, 4), "float32")], None, 4, CheckpointError, "no input 'noise', only x"),
        ([*specs(), TensorSpec("mask", (1, 1, 4, 4), "float32")], 10, 4, UsageError, "'mask' can't be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, classes, pictures, kind, message) -> None:
    with pytest.raises(kind, match=message):
        draw_inputs(wrong, classes, pictures)


def test_batch_of_no_inputs() -> None:
    with pytest.raises(CheckpointError, match="none"):
        batch_of([])


def given(batch: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "noise": rng.standard_normal((batch, 3, 4, 4)).astype(np.float32),
        "renoise": rng.standard_normal((1, batch, 3, 4, 4)),
        "label": np.arange(batch, dtype=np.int32),
    }


def test_given_inputs_are_cut_into_runs_in_the_graphs_dtypes() -> None:
    arrays = given(4)
    runs = split_inputs(specs(batch=2, steps=2), arrays)
    assert len(runs) == 2
    assert np.array_equal(np.concatenate([run["noise"] for run in runs]), arrays["noise"])
    assert np.array_equal(
        np.concatenate([run["renoise"] for run in runs], axis=1), arrays["renoise"].astype(np.float32)
    )
    assert [run["label"].tolist() for run in runs] == [[0, 1], [2, 3]]
    assert (runs[0]["renoise"].dtype, runs[0]["label"].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "the graph takes noise, renoise, label"),
        ({"extra": np.zeros(4)}, "the inputs hold extra"),
        ({"noise": np.zeros((4, 3, 5, 4), np.float32)}, "'noise' has shape"),
        ({"noise": np.zeros((4, 3, 4), np.float32)}, "'noise' has shape"),
        ({"renoise": np.zeros((2, 4, 3, 4, 4))}, "'renoise' has shape"),
        ({"label": np.zeros(4)}, "'label' is float64"),
        ({"noise": np.zeros((4, 3, 4, 4), np.int64)}, "'noise' is int64"),
        ({"noise": np.full((4, 3, 4, 4), np.nan)}, "NaN"),
        ({"label": np.zeros(2, np.int64)}, "same number of pictures"),
        (
            {"noise": np.zeros((0, 3, 4, 4)), "renoise": np.zeros((1, 0, 3, 4, 4)), "label": np.zeros(0, int)},
            "multiple",
        ),
        (given(3), "multiple of the batch 2"),
    ],
)
def test_given_inputs_that_do_not_fit_are_refused(change, message) -> None:
    arrays = {name: array for name, array in (given() | change).items() if array is not None}
    with pytest.raises(CheckpointError, match=message):
        split_inputs(specs(batch=2, steps=2), arrays)
