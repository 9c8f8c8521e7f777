"""Editing against Algorithm 4 with the paper's explicit orthogonal maps, in float64 and with nothing of the package."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmexport.errors import UsageError
from cmexport.model import CheckpointSource, ConsistencyModel, NoiseRange, SampleRequest, Space, class_labels
from cmexport.sampling.editing import TASKS, Colorize, Inpaint, Superres, check_editing
from cmexport.sampling.methods import resolve
from cmexport.sampling.reference import TorchRunner
from cmexport.sampling.samplers import SamplerGraph

E, D, SIZE = 0.002, 0.5, 8
NOISE = NoiseRange(sigma_min=E, sigma_max=80.0, sigma_data=D, rho=7.0, levels=40)


class Toy(nn.Module):
    """Simple enough to write down twice; its c_out part reaches beyond [-1, 1], so that clamping matters."""

    def forward(self, x, c_noise, label=None):
        phase = torch.cos(c_noise / 100.0).to(x.dtype)[:, None, None, None]
        shift = 0.0 if label is None else 0.25 * label.to(x.dtype)[:, None, None, None]
        return 3.0 * torch.tanh(1.3 * x.flip(-1) + phase + shift)


def toy_in_numpy(x, c_noise):
    return 3.0 * np.tanh(1.3 * x[..., ::-1] + math.cos(c_noise / 100.0))


def model(channels=3, classes=None, size=SIZE, clamp=True, rule="cm"):
    return ConsistencyModel(
        network=Toy(),
        architecture={},
        space=Space(channels, size, size),
        preconditioning="cm",
        c_noise="250ln",
        noise=NOISE,
        conditions=class_labels(classes),
        renoise=rule,
        clamp=clamp,
        source=CheckpointSource(Path("toy.pt"), "toy", "0" * 64, 1),
    )


def colour_basis():
    """A 3 x 3 orthogonal matrix whose first column is the direction of grey, completed by QR (OpenAI's notebook)."""
    start = np.array([[0.2989, 0.5870, 0.1140], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).T
    q, _ = np.linalg.qr(start)
    return q * np.sign(q[0, 0])


def patch_basis(p):
    """A p^2 x p^2 orthogonal matrix whose first column is constant."""
    start = np.eye(p * p)
    start[:, 0] = 1.0
    q, _ = np.linalg.qr(start)
    return q * np.sign(q[0, 0])


def to_coordinates(task, x, p):
    """A x, with the coordinates on the last axis, and how to come back."""
    if task == "inpaint":
        return x[..., None], lambda c: c[..., 0]
    if task == "colorize":
        basis = colour_basis()
        return np.moveaxis(x, 1, -1) @ basis, lambda c: np.moveaxis(c @ basis.T, -1, 1)
    basis = patch_basis(p)
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // p, p, w // p, p).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // p, w // p, p * p)

    def back(found):
        made = (found @ basis.T).reshape(n, c, h // p, w // p, p, p)
        return made.transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h, w)

    return blocks @ basis, back


def algorithm_4(task, sigmas, y, mask, noise, renoise, *, p=None, clamp=True, rule="cm"):
    """Song et al. 2023, algorithm 4, with OpenAI's order: f, clamp, replace, renoise."""
    known, _ = to_coordinates(task, y, p)
    where = np.zeros_like(known)
    if task == "inpaint":
        where[:] = mask[..., None]
    else:
        where[..., 0] = 1.0

    def replace(x):
        coordinates, back = to_coordinates(task, x, p)
        return back(known * where + coordinates * (1.0 - where))

    def f(x, s):
        c_skip, c_out = D**2 / ((s - E) ** 2 + D**2), (s - E) * D / math.sqrt(s**2 + D**2)
        image = c_skip * x + c_out * toy_in_numpy(x / math.sqrt(s**2 + D**2), 250.0 * math.log(s))
        return np.clip(image, -1.0, 1.0) if clamp else image

    _, back = to_coordinates(task, y, p)
    x = replace(f(back(known * where) + sigmas[0] * noise, sigmas[0]))
    for z, s in zip(renoise, sigmas[1:], strict=True):
        x = replace(f(x + (math.sqrt(s**2 - E**2) if rule == "cm" else s) * z, s))
    return x


def picture(seed, batch, channels=3, size=SIZE):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1.0, 1.0, (batch, channels, size, size)), rng


def run(subject, request, inputs):
    sampler = SamplerGraph(resolve(subject, request))
    with torch.no_grad():
        return sampler(**{name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()


@settings(max_examples=40, deadline=None)
@given(
    task=st.sampled_from(["inpaint", "colorize", "superres"]),
    steps=st.sampled_from([1, 2, 4, 39]),
    patch=st.sampled_from([2, 4, 8]),
    batch=st.integers(1, 2),
    clamp=st.booleans(),
    rule=st.sampled_from(["cm", "ect"]),
    seed=st.integers(0, 1000),
)
def test_editing_is_algorithm_4(task, steps, patch, batch, clamp, rule, seed):
    subject = model(clamp=clamp, rule=rule)
    sigmas = tuple(80.0 * 0.77**i for i in range(steps))
    request = SampleRequest(sigmas=sigmas, batch=batch, task=task, patch=patch if task == "superres" else None)
    y, rng = picture(seed, batch)
    mask = (rng.random((batch, 1, SIZE, SIZE)) < 0.5).astype(float)
    noise = rng.standard_normal((batch, 3, SIZE, SIZE))
    renoise = rng.standard_normal((steps - 1, batch, 3, SIZE, SIZE))
    inputs = {"noise": noise, "image": y} | ({"renoise": renoise} if steps > 1 else {})
    inputs |= {"mask": mask} if task == "inpaint" else {}
    expected = algorithm_4(task, sigmas, y, mask, noise, renoise, p=patch, clamp=clamp, rule=rule)

    np.testing.assert_allclose(run(subject, request, inputs), expected, rtol=0, atol=1e-10)
    single = {name: value.astype(np.float32) for name, value in inputs.items()}
    with TorchRunner(resolve(subject, request)) as runner:
        (image,) = runner(single).values()
    assert image.dtype == np.float32
    # Without the clamp this network's pictures reach 5, and over 39 steps rounding errors grow to 2.1e-5 of that; the
    # float64 run above is what tells a wrong formula.
    bound = (1e-5 if steps <= 4 else 1e-4) * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(image, expected, rtol=0, atol=bound)

    kept = {name: value.astype(np.float64) for name, value in single.items()}["image"]
    if task == "inpaint":
        same = np.broadcast_to(mask == 1.0, image.shape)
        assert np.array_equal(image[same], single["image"][same])
    elif task == "colorize":
        weights = np.array([0.2989, 0.5870, 0.1140])
        np.testing.assert_allclose(
            np.einsum("c,nchw->nhw", weights, image), np.einsum("c,nchw->nhw", weights, kept), rtol=0, atol=1e-5
        )
    else:
        means = [v.reshape(batch, 3, SIZE // patch, patch, SIZE // patch, patch).mean((3, 5)) for v in (image, kept)]
        np.testing.assert_allclose(*means, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigmas", [(5.38,), (5.38, 2.24)])
def test_stroke_starts_from_the_noised_picture_and_keeps_nothing(sigmas):
    y, rng = picture(0, 2)
    noise, renoise = rng.standard_normal((2, 3, SIZE, SIZE)), rng.standard_normal((1, 2, 3, SIZE, SIZE))

    def f(x, s):
        c_skip, c_out = D**2 / ((s - E) ** 2 + D**2), (s - E) * D / math.sqrt(s**2 + D**2)
        return np.clip(c_skip * x + c_out * toy_in_numpy(x / math.sqrt(s**2 + D**2), 250.0 * math.log(s)), -1.0, 1.0)

    expected = f(y + sigmas[0] * noise, sigmas[0])
    for s in sigmas[1:]:
        expected = f(expected + math.sqrt(s**2 - E**2) * renoise[0], s)
    inputs = {"noise": noise, "image": y} | ({"renoise": renoise} if len(sigmas) > 1 else {})
    got = run(model(), SampleRequest(sigmas=sigmas, batch=2, task="stroke"), inputs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 80.0])
def test_denoise_is_one_evaluation_of_the_picture_itself(sigma):
    y, rng = picture(0, 2)
    y = y + sigma * rng.standard_normal(y.shape)
    c_skip, c_out = D**2 / ((sigma - E) ** 2 + D**2), (sigma - E) * D / math.sqrt(sigma**2 + D**2)
    expected = c_skip * y + c_out * toy_in_numpy(y / math.sqrt(sigma**2 + D**2), 250.0 * math.log(sigma))
    got = run(model(), SampleRequest(sigmas=(sigma,), batch=2, task="denoise"), {"image": y})
    np.testing.assert_allclose(got, np.clip(expected, -1.0, 1.0), rtol=0, atol=1e-11)


def test_bytes_are_made_after_the_known_part_is_back():
    y, rng = picture(1, 1)
    inputs = {
        "noise": rng.standard_normal(y.shape),
        "image": y,
        "mask": (rng.random((1, 1, SIZE, SIZE)) < 0.5).astype(float),
    }
    request = SampleRequest(sigmas=(80.0,), task="inpaint", output="uint8")
    got = run(model(), request, inputs).transpose(0, 3, 1, 2)
    same = np.broadcast_to(inputs["mask"] == 1.0, y.shape)
    assert np.array_equal(got[same], np.rint((y[same] + 1.0) * 127.5).astype(np.uint8))


def test_what_people_are_shown():
    y = torch.from_numpy(picture(2, 1)[0])
    mask = torch.zeros(1, 1, SIZE, SIZE)
    assert torch.equal(Inpaint().shown(y, mask), torch.zeros_like(y))
    grey = Colorize().shown(y, None)
    assert torch.equal(grey[:, 0], grey[:, 1])
    white = Colorize().shown(torch.ones(1, 3, 2, 2), None)
    torch.testing.assert_close(white, torch.ones(1, 3, 2, 2))
    assert Superres(4).shown(y, None)[0, 0, :4, :4].std() == 0


@pytest.mark.parametrize(
    ("subject", "fields", "steps", "words"),
    [
        (model(), {"task": "paint"}, 1, "known are generate, inpaint"),
        (model(), {"task": "superres"}, 1, "--patch N"),
        (model(), {"task": "superres", "patch": 3}, 1, "divide"),
        (model(), {"task": "superres", "patch": 1}, 1, "at least 2"),
        (model(), {"task": "superres", "patch": 16}, 1, "divide"),
        (model(), {"task": "inpaint", "patch": 4}, 1, "only --task superres"),
        (model(channels=1), {"task": "colorize"}, 1, "1 channels"),
        (model(), {"task": "denoise"}, 2, "one evaluation"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(subject, fields, steps, words):
    with pytest.raises(UsageError, match=words):
        check_editing(subject, SampleRequest(**fields), steps)


def test_every_task_is_checked_against_something_here():
    assert set(TASKS) == {"generate", "inpaint", "colorize", "superres", "stroke", "denoise"}
