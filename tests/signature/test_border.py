"""The border of a graph: inputs that anybody can draw again, and arrays that fit it or are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmexport.errors import CheckpointError, UsageError
from cmexport.signature import Choice, Input, Normal, Photo, Signature, known

PICTURE = (3, 4, 4)


def border(batch: int = 1, steps: int = 1, classes: int | None = 10, dtype: str = "int64") -> Signature:
    inputs = [known.noise((batch, *PICTURE))]
    if steps > 1:
        inputs.append(known.renoise(steps - 1, (batch, *PICTURE)))
    if classes:
        inputs.append(replace(known.label(batch, classes), dtype=dtype))
    return Signature(tuple(inputs), known.finished((batch, *PICTURE)))


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_arrays_have_the_graphs_dtypes(dtype: str) -> None:
    arrays = border(dtype=dtype).draw()
    assert (arrays["noise"].dtype, arrays["label"].dtype) == (np.float32, np.dtype(dtype))


def test_a_graph_without_label_or_renoise_gets_only_noise() -> None:
    assert set(border(classes=None).draw()) == {"noise"}


def test_examples_are_whole_runs_of_pictures_that_follow_each_other() -> None:
    two = border(batch=2).examples(3)
    for place, index in enumerate((6, 7)):
        generator = torch.Generator().manual_seed(index)
        assert torch.equal(two["noise"][place], torch.randn(PICTURE, generator=generator))
        assert int(two["label"][place]) == index
    assert two["label"].dtype is torch.int64


def test_what_has_no_law_cannot_be_drawn() -> None:
    plain = border()
    with pytest.raises(UsageError, match="'x' can't be drawn"):
        replace(plain, inputs=(*plain.inputs, Input("x", (1, 4)))).draw()
    with pytest.raises(CheckpointError, match="no input 'noise', only x"):
        _ = Signature((Input("x", (1, 4)),), plain.output).batch
    with pytest.raises(CheckpointError, match="none"):
        _ = Signature((), plain.output).batch


def test_an_input_that_counts_no_pictures_is_shared_by_all_of_a_run() -> None:
    level = Input("level", (1,), "int64", Choice(3), layout=("1",))
    both = replace(border(batch=2, classes=None), inputs=(*border(batch=2, classes=None).inputs, level))
    assert both.draw(4)["level"].tolist() == [1]
    assert both.choices == ()
    assert both.with_batch(5).inputs[-1] == level
    arrays = {"noise": np.zeros((4, *PICTURE), np.float32), "level": np.array([2])}
    assert [run["level"].tolist() for run in both.batches(arrays)] == [[2], [2]]


def test_the_samples_are_the_noise_or_the_noisy_picture_that_stands_for_it() -> None:
    noise, image = known.noise((2, *PICTURE)), known.image((2, 3, 8, 8), 0.5)
    assert Signature((image, noise), known.finished((2, *PICTURE))).sample is noise
    alone = Signature((known.label(2, 5), image), known.finished((2, 3, 8, 8)))
    assert (alone.sample, alone.batch, alone.given) == (image, 2, (image,))
    assert border(steps=3).later_noise == known.renoise(2, (1, *PICTURE))
    assert (border().later_noise, border(classes=None).choice) == (None, None)


def given(batch: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "noise": rng.standard_normal((batch, *PICTURE)).astype(np.float32),
        "renoise": rng.standard_normal((1, batch, *PICTURE)),
        "label": np.arange(batch, dtype=np.int32),
    }


def test_given_inputs_are_cut_into_runs_in_the_graphs_dtypes() -> None:
    arrays = given(4)
    whole = border(batch=2, steps=2)
    runs = whole.batches(arrays)
    assert len(runs) == 2
    assert np.array_equal(np.concatenate([run["noise"] for run in runs]), arrays["noise"])
    assert np.array_equal(
        np.concatenate([run["renoise"] for run in runs], axis=1), arrays["renoise"].astype(np.float32)
    )
    assert [run["label"].tolist() for run in runs] == [[0, 1], [2, 3]]
    assert (runs[0]["renoise"].dtype, runs[0]["label"].dtype) == (np.float32, np.int64)
    joined = whole.join(runs)
    assert all(np.array_equal(joined[name], arrays[name].astype(joined[name].dtype)) for name in arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "the graph takes noise, renoise, label"),
        ({"extra": np.zeros(4)}, "the inputs hold extra"),
        ({"noise": np.zeros((4, 3, 5, 4), np.float32)}, "'noise' has shape"),
        ({"noise": np.zeros((4, 3, 4), np.float32)}, "'noise' has shape"),
        ({"renoise": np.zeros((2, 4, 3, 4, 4))}, "'renoise' has shape"),
        ({"label": np.zeros(4)}, "'label' is float64"),
        ({"label": np.array([0, 1, 2, 10])}, "'label' holds a number outside 0 to 9"),
        ({"label": np.array([0, 1, 2, 2**32])}, "'label' holds a number outside 0 to 9"),
        ({"label": np.array([0, 1, 2, -1])}, "'label' holds a number outside 0 to 9"),
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
        border(batch=2, steps=2, dtype="int32").batches(arrays)


def test_what_is_given_for_one_picture_goes_to_all_of_a_run() -> None:
    spread = border(batch=3).spread({"label": np.asarray(7)})
    assert {name: array.tolist() for name, array in spread.items()} == {"label": [7, 7, 7]}
    assert spread["label"].dtype == np.int64


def test_a_border_of_names_and_shapes_gets_its_laws_back() -> None:
    pictures = (2, 3, 8, 8)
    inputs = (known.noise(pictures), known.renoise(1, pictures), known.label(2, 7), known.mask(pictures))
    for each in (*inputs, known.image(pictures, 0.25)):
        again = known.recorded(each.name, each.shape, each.dtype, each.meaning, classes=7, image_noise=0.25)
        assert again == each
        assert known.picture_axis(each.name) == each.batch_axis
    odd = known.recorded("x", (2, 4), "float32", "", classes=7, image_noise=0.0)
    assert (odd.law, odd.batch_axis) == (None, 0)
    assert known.recorded("label", (2,), "int64", "", classes=None, image_noise=0.0).law is None


def test_laws_are_told_apart_by_what_they_hold() -> None:
    assert (Normal(), Choice(3), Photo()) == (Normal(), Choice(3), Photo(0.0))
    assert Choice(3) != Choice(4)
    assert (Choice(3).count, Normal().count) == (3, None)
    assert Photo().stand_in
    assert not Normal().stand_in


@pytest.mark.parametrize(
    ("clamp", "put_back", "promised"),
    # The grey value and the block means are put back after the clamp.
    [(True, False, True), (False, False, False), (False, True, False), (True, True, False)],
)
def test_the_range_that_is_promised_holds(clamp: bool, put_back: bool, promised: bool) -> None:
    image = known.finished((1, 3, 8, 8), clamp=clamp, put_back=put_back)
    assert image.meaning.endswith("(N, C, H, W) in [-1, 1]") is promised
    assert ("clip before showing" in image.meaning) is not promised
    as_bytes = known.finished((1, 3, 8, 6), as_bytes=True, clamp=clamp, put_back=put_back)
    assert "bytes 0 to 255" in as_bytes.meaning
    assert (as_bytes.shape, as_bytes.dtype, as_bytes.is_bytes) == ((1, 8, 6, 3), "uint8", True)


def test_what_a_label_and_a_noisy_picture_may_be() -> None:
    label = known.label(1, 10).meaning
    assert "0 to 9" in label
    assert "not checked by the file" in label
    assert "standard deviation 0.5" in known.image((1, 3, 8, 8), 0.5).meaning


def test_an_input_and_an_output_never_share_a_name() -> None:
    picture = (1, 3, 8, 8)
    assert known.finished(picture).name == "image"
    assert known.finished(picture, [known.image(picture)]).name == "edited"
