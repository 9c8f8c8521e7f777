"""The body of a looped sampler: one copy of the network, right at every level, whatever the rewrites did."""

from __future__ import annotations

import copy

import pytest
import torch
from support.networks import model_around

from cmexport.graph.evaluate import exact_picture
from cmexport.graph.fxtools import weight_elements
from cmexport.graph.looping import LEVEL, ExactLoopRunner, capture_loop, rewrite_loop
from cmexport.graph.rewrites import REWRITES
from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.sampling.heun import HeunSampler
from cmexport.sampling.methods import resolve

SIGMAS = (80.0, 9.0, 1.4, 0.3, 0.002)


def loop_of(model, **fields):
    request = SampleRequest(sigmas=SIGMAS, sampler="heun", **fields)
    return capture_loop(resolve(model, request))


def worst(module, model, loop, label):
    """Largest relative difference of the body from `network.double()`, over all levels."""
    network, errors = copy.deepcopy(model.network).double(), []
    inputs = loop.body.examples(4)
    for index, sigma in enumerate(SIGMAS):
        c_noise = 250.0 * torch.tensor([sigma], dtype=torch.float64).log()
        given = inputs.get("label") if label is None else torch.full((len(inputs["noise"]),), label)
        arguments = (inputs["noise"].double(), c_noise, *(() if given is None else (given,)))
        with torch.no_grad():
            expected = network(*arguments)
        got = exact_picture(module, {**inputs, LEVEL: torch.tensor([index])})
        errors.append(float((got - expected).abs().max() / expected.abs().max()))
    return max(errors)


@pytest.mark.parametrize(("classes", "label", "batch"), [(10, None, 1), (10, None, 3), (10, 4, 2), (None, None, 2)])
def test_rewritten_it_is_the_network_at_every_level(adm_model, classes, label, batch):
    model = adm_model(num_classes=classes)
    loop = loop_of(model, label=label, batch=batch)
    rewritten = rewrite_loop(loop, REWRITES)
    assert worst(to_module(loop.body.program), model, loop, label) < 1e-12
    # Tables are stored in float32.
    assert worst(to_module(rewritten.body.program), model, loop, label) < 1e-6
    levels = rewritten.rewrites[0]
    assert levels.name == "tabulate_levels"
    assert levels.applied
    assert levels.parameters_removed > 0
    # No sinusoid, and nothing in float64, is left for a runtime to compute.
    kept = list(to_module(rewritten.body.program).graph.nodes)
    assert not any("sin" in n.name.split("_") or "cos" in n.name.split("_") for n in kept)
    assert not any(getattr(n.meta.get("val"), "dtype", None) is torch.float64 for n in kept)


def test_the_batch_does_not_widen_the_table(adm_model):
    model = adm_model(num_classes=None)
    one, many = (weight_elements(to_module(rewrite_loop(loop_of(model, batch=b), ()).body.program)) for b in (1, 4))
    assert many == one


def test_a_network_that_knows_no_level_is_left_alone():
    class Blind(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)

        def forward(self, x, c_noise):
            del c_noise
            return self.conv(x)

    report = rewrite_loop(loop_of(model_around(Blind().requires_grad_(False), 8, None)), ()).rewrites[0]
    assert (report.applied, report.note) == (0, "nothing depends on the level alone")


@pytest.mark.parametrize("output", ["float", "uint8"])
def test_in_float64_it_is_the_reference_in_float64(adm_model, output):
    model = adm_model()
    loop = loop_of(model, batch=2, output=output)
    inputs = {n: t.numpy() for n, t in loop.signature.examples(2).items()}
    with ExactLoopRunner(loop) as run:
        got = torch.from_numpy(run(inputs)["image"])
    wide = copy.copy(model.network)
    exact = HeunSampler(resolve(model, SampleRequest(sigmas=SIGMAS, sampler="heun", output=output)))
    exact.network = copy.deepcopy(wide).double()
    with torch.no_grad():
        expected = exact(torch.from_numpy(inputs["noise"]).double(), label=torch.from_numpy(inputs["label"]))
    assert got.dtype is (torch.float64 if output == "float" else torch.uint8)
    assert float((got.double() - expected.double()).abs().max()) < 1e-11
    assert loop.signature.names == ("noise", "label")
    assert loop.signature.output.shape == tuple(expected.shape)
