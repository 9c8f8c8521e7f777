from __future__ import annotations

import numpy as np
import pytest
import torch

from cmexport.errors import CheckpointError, UsageError
from cmexport.parity.inputs import draw_inputs
from cmexport.signature import Input, Signature, known


def border(batch: int = 1, steps: int = 1, classes: int = 10) -> Signature:
    pictures = (batch, 3, 4, 4)
    later = [known.renoise(steps - 1, pictures)] if steps > 1 else []
    return Signature((known.noise(pictures), *later, known.label(batch, classes)), known.finished(pictures))


def test_picture_i_is_drawn_from_its_own_seed_noise_first_then_renoise() -> None:
    inputs = draw_inputs(border(batch=2, steps=3, classes=3), pictures=6, seed=40)
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
    one = np.concatenate([run["noise"] for run in draw_inputs(border(1), 8)])
    four = np.concatenate([run["noise"] for run in draw_inputs(border(4), 8)])
    assert np.array_equal(one, four)


def test_pictures_are_rounded_up_to_whole_batches() -> None:
    inputs = draw_inputs(border(batch=3), pictures=64)
    assert (inputs.pictures, len(inputs), inputs.batch) == (66, 22, 3)


def test_sequence_indexing() -> None:
    inputs = draw_inputs(border(), 4)
    assert np.array_equal(inputs[-1]["noise"], inputs[3]["noise"])
    assert [int(run["label"][0]) for run in inputs[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        inputs[4]


def test_pictures_from_another_one_on_are_the_same_pictures() -> None:
    whole, part = draw_inputs(border(), 8, seed=40), draw_inputs(border(), 3, seed=40, first=5)
    for name in ("noise", "label"):
        assert [run[name].tolist() for run in part] == [run[name].tolist() for run in whole[5:]]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        draw_inputs(border(), 0)
    with pytest.raises(UsageError, match="'x' can't be drawn"):
        draw_inputs(Signature((*border().inputs, Input("x", (1, 4))), border().output), 4)
    with pytest.raises(CheckpointError, match="no input 'noise', only x"):
        draw_inputs(Signature((Input("x", (1, 4)),), border().output), 4)
