"""One law for inputs that nobody gave: whoever measures on made-up pictures measures on the same ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.networks import model_around, random_weights, tiny_config

from cmexport.graph.capture import capture
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.networks.adm_unet import AdmUnet
from cmexport.parity.inputs import draw_inputs
from cmexport.quantize import calibration, sensitivity
from cmexport.quantize.calibration import CalibrationOptions, calibrate
from cmexport.quantize.layers import find_layers
from cmexport.quantize.simulation import Simulation
from cmexport.quantize.weights import find_weights
from cmexport.sampling.methods import resolve
from cmexport.signature.made_up import hole, made_up_picture

EDITING = ("inpaint", "colorize", "superres", "stroke", "denoise")


def graph_for(task: str, batch: int = 1):
    sigmas = (0.5,) if task == "denoise" else (5.0, 1.0)
    request = SampleRequest(sigmas=sigmas, task=task, patch=2 if task == "superres" else None, batch=batch)
    model = model_around(random_weights(AdmUnet(tiny_config(3)), 0), 8, 3)
    return capture(resolve(model, request))


@pytest.fixture(scope="module")
def graphs():
    class Traced(dict):
        def __missing__(self, task: str):
            return self.setdefault(task, graph_for(task))

    return Traced()


def drawn(graph, seed: int) -> dict[str, np.ndarray]:
    """As verification, benchmarks and previews draw a picture; labels there follow the picture's number."""
    (run,) = draw_inputs(graph.signature, 1, seed)
    return {name: array for name, array in run.items() if name != "label"}


@pytest.mark.parametrize("task", EDITING)
def test_calibration_and_simulation_see_what_verification_draws(graphs, task) -> None:
    graph = graphs[task]
    for seed in (0, 20_000):
        for inputs in (graph.examples(seed), Simulation(graph).inputs([seed])[0]):
            found = {name: tensor.numpy() for name, tensor in inputs.items() if name != "label"}
            wanted = drawn(graph, seed)
            assert set(found) == set(wanted)
            for name, array in wanted.items():
                np.testing.assert_array_equal(found[name], array)
                assert found[name].dtype == array.dtype


def test_calibration_feeds_noisy_pictures_where_the_picture_is_noisy(graphs, monkeypatch) -> None:
    seen = []
    together = calibration.run_together
    monkeypatch.setattr(
        calibration,
        "run_together",
        lambda run, inputs: (seen.extend(given["image"] for given in inputs), together(run, inputs))[1],
    )
    # Of a class-conditional "denoise" the first input is `label`: finding layers once took it for the picture.
    layers = find_layers(graphs["denoise"])
    calibrate(graphs["denoise"], layers, CalibrationOptions(pictures=2, gram_pictures=1))
    for image, seed in zip(seen, (0, 1), strict=True):
        np.testing.assert_array_equal(image.numpy(), drawn(graphs["denoise"], calibration.SEED + seed)["image"])


def test_sensitivities_are_taken_at_the_same_pictures(graphs, monkeypatch) -> None:
    seen = []
    unfinished = sensitivity.run_unfinished
    monkeypatch.setattr(
        sensitivity,
        "run_unfinished",
        lambda module, inputs, names: (seen.append(inputs), unfinished(module, inputs, names))[1],
    )
    graph = graphs["inpaint"]
    sensitivity.weight_sensitivity(graph, find_weights(to_module(graph.program))[:1], samples=1, seed=7)
    for name in ("image", "mask"):
        np.testing.assert_array_equal(seen[0][name].detach().numpy(), drawn(graph, 7)[name])


def test_noise_and_labels_are_what_they_always_were() -> None:
    """Calibrations, and so the bytes of exports, rest on them."""
    inputs = graph_for("inpaint").examples(5)
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(inputs["noise"], torch.randn((1, 3, 8, 8), generator=generator))
    assert torch.equal(inputs["renoise"], torch.randn((1, 1, 3, 8, 8), generator=generator))
    assert inputs["label"].tolist() == [2]


def test_pictures_are_soft_and_masks_have_one_hole() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in ((3, 8, 8), (1, 16, 32)):
        picture, mask = made_up_picture(size, generator), hole((1, *size[1:]), generator)
        assert picture.shape == size
        assert np.abs(picture).max() <= 1.0
        # Neighbours of white noise differ by sqrt(2) of its spread.
        assert np.diff(picture, axis=2).std() < 0.8 * picture.std()
        rows, columns = np.nonzero(mask[0] == 0)
        assert mask.sum() == 0.75 * mask.size
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (size[1] // 2, size[2] // 2)
    noisy = made_up_picture((3, 32, 32), torch.Generator().manual_seed(1), 0.5)
    clean = made_up_picture((3, 32, 32), torch.Generator().manual_seed(1))
    assert (noisy - clean).std() == pytest.approx(0.5, rel=0.05)
