"""The demo model's rewritten graph, the trained weights that fidelity is judged on, and pictures drawn from it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from support.centred import codes, graph, noise
from support.eight_bits import FEW, unet
from support.measuring import toy
from support.networks import demo_graph
from torch import fx

from cmexport.graph.tracing import to_module
from cmexport.model import SampleRequest
from cmexport.quantize.int8 import prepare
from cmexport.quantize.precision_plan import PrecisionPlan
from cmexport.quantize.sensitivity import weight_sensitivity
from cmexport.quantize.weights import find_weights

__all__ = ["codes", "graph", "noise", "toy"]

PICTURES = 16


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def demo():
    return demo_graph()[1]


@pytest.fixture(scope="session")
def two_steps():
    return demo_graph((80.0, 1.4))[1]


@pytest.fixture(scope="session")
def weights(demo):
    return find_weights(to_module(demo.program))


@pytest.fixture(scope="session")
def sensitivity(demo, weights):
    return weight_sensitivity(demo, weights, samples=16)


def draw(captured, pictures=PICTURES):
    """Finished pictures by torch's own interpreter: nothing of `quantize` is used."""
    module = to_module(captured.program)
    names = [n.name for n in module.graph.nodes if n.op == "placeholder"]
    drawn = []
    with torch.no_grad():
        for seed in range(pictures):
            inputs = captured.examples(5000 + seed)
            result = fx.Interpreter(module).run(*(inputs[n] for n in names), enable_io_processing=False)
            drawn.append(result[0] if isinstance(result, tuple | list) else result)
    return torch.cat(drawn)


@pytest.fixture(scope="session")
def reference(demo):
    return draw(demo)


@pytest.fixture(scope="session")
def psnr(reference):
    """A function: mean PSNR (peak 2.0) of a graph's pictures against the demo's own."""

    def of(captured):
        error = ((draw(captured) - reference) ** 2).flatten(1).mean(1)
        return float((10 * torch.log10(4.0 / error)).mean())

    return of


@pytest.fixture(scope="session")
def small():
    """The graph of a small random network, after the rewrites."""
    return unet()


@pytest.fixture(scope="session")
def small_two_steps():
    return unet(SampleRequest(sigmas=(80.0, 1.4)))


@pytest.fixture(scope="session")
def prepared(small):
    """The small network, calibrated on a few pictures."""
    return prepare(small, PrecisionPlan(), options=FEW)
